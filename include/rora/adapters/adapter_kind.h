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
/// fields of adapter_config.json. `register_adapter_kind` makes `load_adapter` know it.
class AdapterKind : public std::enable_shared_from_this<AdapterKind> {
 public:
  virtual ~AdapterKind() = default;

  /// The value of `peft_type`: "LORA".
  virtual std::string peft_type() const = 0;

  /// Throws `c10::ValueError` for options that no adapter of `module` can have.
  virtual void validate(const std::string& module, const ProjectionImpl& projection) const {}

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

  /// The kind as a folder with `adapters` must say it, whose own options count where they are others than these.
  /// `portable`: for readers that know no scale but α/r. By default the kind itself. Throws `c10::ValueError` for
  /// adapters that one folder cannot hold together.
  virtual std::shared_ptr<const AdapterKind> as_saved(const std::vector<NamedAdapter>& adapters, bool portable) const {
    return shared_from_this();
  }

  /// Makes this the kind that `options` attach.
  virtual void put_into(AdapterOptions& options) const;
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
