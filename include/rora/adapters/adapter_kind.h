#pragma once

#include <rora/checkpoint/json_object.h>
#include <rora/core/adapter.h>
#include <rora/core/initializer.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace rora {

class AttentionAdapter;
class AttentionImpl;
struct AdapterOptions;

/// A tensor that an adapter will have.
struct AdapterTensor {
  std::string name; ///< the key in `Adapter::saved_tensors`: "lora_A"
  std::vector<int64_t> shape;
};

/// An adapter with the whole name of its module.
struct NamedAdapter {
  std::string module;
  std::shared_ptr<const Adapter> adapter;
};

/// A kind of adapter with its options: PEFT's `LoraConfig`, `IA3Config` …, but for which modules are meant, which
/// `AdapterOptions` say.
///
/// A kind makes the adapters of single modules, says their tensors before there are any, and reads and writes its own
/// fields of adapter_config.json. `register_adapter_kind` makes `load_adapter` know it. Its adapters are projections',
/// or attentions' (`AttentionAdapterKind`).
class AdapterKind : public std::enable_shared_from_this<AdapterKind> {
 public:
  virtual ~AdapterKind() = default;

  /// The value of `peft_type`: "LORA".
  virtual std::string peft_type() const = 0;

  /// Throws `c10::ValueError` for options that no adapter of `module` can have.
  virtual void validate(const std::string& module, const ProjectionImpl& projection) const {}

  /// Throws `c10::ValueError` where the options are about a module that is none of `modules`, the adapted ones.
  virtual void check_modules(const std::vector<std::string>& modules) const {}

  /// Throws `c10::ValueError` where `make` would read statistics that are not there or are of another weight. Asked for
  /// before anything is attached; not asked for by `load_adapter`, whose adapters are filled from a file.
  virtual void check_statistics(
      const std::string& module, const ProjectionImpl& projection, const WeightStatistics& statistics) const {}

  /// A fresh adapter of `module`, on its device.
  virtual std::shared_ptr<Adapter> make(
      const std::string& module, const ProjectionImpl& projection, const WeightStatistics& statistics) const = 0;

  /// The tensors of the adapter of `module`. Nothing is allocated for them: sizes in a file may lie.
  virtual std::vector<AdapterTensor> tensors(const std::string& module, const ProjectionImpl& projection) const = 0;

  /// The tensor's name in adapter_model.safetensors.
  virtual std::string key(const std::string& module, const std::string& tensor) const {
    return "base_model.model." + module + "." + tensor;
  }

  /// Writes the kind's own fields of adapter_config.json.
  virtual void write(JsonFields& config) const = 0;

  /// What a reader is told about it: by default the fields of adapter_config.json.
  virtual void describe(JsonFields& fields) const {
    write(fields);
  }

  /// The kind with that dropout in its adapters. Throws `c10::ValueError`, by default as its adapters have none.
  virtual std::shared_ptr<const AdapterKind> with_dropout(double dropout) const;

  /// The kind as a folder with `adapters` must say it, whose own options count where they are others than these.
  /// `portable`: for readers that know no scale but α/r. By default the kind itself. Throws `c10::ValueError` for
  /// adapters that one folder cannot hold together.
  virtual std::shared_ptr<const AdapterKind> as_saved(const std::vector<NamedAdapter>& adapters, bool portable) const {
    return shared_from_this();
  }

  /// Makes this the kind that `options` attach.
  virtual void put_into(AdapterOptions& options) const;
};

/// An attention of a model, with its whole name ("model.layers.0.self_attn").
struct AttentionSlot {
  std::string module;
  std::shared_ptr<AttentionImpl> attention;
  std::shared_ptr<AttentionAdapter> adapter = nullptr; ///< once it is made
};

/// A kind whose adapters stand in the slots of attentions (prefix tuning), one in each of a model's: `AdapterOptions`
/// then choose among no modules. What a folder holds is of all of them together. They are listed from the first layer
/// to the last.
class AttentionAdapterKind : public AdapterKind {
 public:
  /// Throws `c10::ValueError` for options that a model of these attentions cannot have.
  virtual void check(const std::vector<AttentionSlot>& attentions) const {}

  /// A fresh adapter, on the attention's device.
  virtual std::shared_ptr<AttentionAdapter> make_adapter(const AttentionImpl& attention) const = 0;

  /// The tensors of adapter_model.safetensors by their names there. Nothing is allocated for them: sizes in a file may
  /// lie.
  virtual std::vector<AdapterTensor> stored(const std::vector<AttentionSlot>& attentions) const = 0;

  /// Those tensors, in the order of `stored`, from the adapters. Throws `c10::ValueError` for adapters of another kind.
  virtual std::vector<at::Tensor> store(const std::vector<AttentionSlot>& attached) const = 0;

  /// Fills the adapters from those tensors, which have the shapes that `stored` says.
  virtual void restore(const std::vector<at::Tensor>& tensors, const std::vector<AttentionSlot>& attached) const = 0;

  /// The kind as a folder with these adapters must say it: see above.
  virtual std::shared_ptr<const AdapterKind> as_saved(const std::vector<AttentionSlot>& attached) const = 0;

 private:
  std::shared_ptr<Adapter> make(
      const std::string& module, const ProjectionImpl& projection, const WeightStatistics& statistics) const final;
  std::vector<AdapterTensor> tensors(const std::string& module, const ProjectionImpl& projection) const final;
  std::shared_ptr<const AdapterKind> as_saved(const std::vector<NamedAdapter>& adapters, bool portable) const final;
};

/// How a kind is found and read.
struct AdapterKindEntry {
  /// The value of `peft_type`.
  std::string peft_type;
  /// The fields of adapter_config.json that `parse` judges. One that neither it nor the library knows must ask for
  /// nothing (null, false, empty), or the folder is refused.
  std::vector<std::string> fields;
  /// The kind from its fields. Throws `FormatError` by `JsonObject::fail`.
  std::function<std::shared_ptr<const AdapterKind>(const JsonObject& config)> parse;
};

/// Makes `read_adapter_config` and `load_adapter` know another kind. Throws `c10::ValueError` for a `peft_type` that is
/// known.
void register_adapter_kind(AdapterKindEntry entry);

} // namespace rora
