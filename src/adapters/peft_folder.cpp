#include <rora/adapters/peft_folder.h>

#include "../checkpoint/other_forms.h"
#include "adapter_config.h"
#include "adapter_files.h"
#include "attachment.h"
#include "attention_attachment.h"
#include "rows_attachment.h"

#include <rora/adapters/adapter_kind.h>
#include <rora/checkpoint/file.h>
#include <rora/checkpoint/safetensors.h>
#include <rora/error.h>
#include <rora/model/decoder_layer.h>

#include <c10/util/Exception.h>

#include <map>
#include <set>

namespace rora {
namespace {

/// PEFT stores the base weight of an adapted head, too, and loads it in place of the model's: it must be the same.
void check_base_weight(const SafetensorsFile& file, const std::string& key, const ProjectionImpl& projection) {
  const at::Tensor base = projection.base().dense();
  if (!at::equal(file.tensor(key).to(base.options()), base)) {
    throw FormatError(file.path(), key + " is not the base model's weight: the adapter is of another model");
  }
}

void check_no_other(const SafetensorsFile& file, const std::set<std::string>& known) {
  for (const std::string& key : file.names()) {
    if (!known.count(key)) {
      detail::fail_for_tensor_beyond(file, key);
    }
  }
}

/// Checks every tensor of the file against the plan before any adapter is made: a size in adapter_config.json may lie.
void check_tensors(
    const std::vector<detail::Attachment>& plan, const std::vector<detail::RowsAttachment>& rows,
    const AdapterKind& kind, const SafetensorsFile& file) {
  std::set<std::string> known;
  for (const detail::RowsAttachment& each : rows) {
    for (const std::string& key : each.keys()) {
      detail::check_adapter_tensor(file, key, each.shape());
      if (!at::equal(file.tensor(key), file.tensor(each.keys().front()))) {
        throw FormatError(file.path(), key + " is not " + each.keys().front() + ", to which the model ties it");
      }
      known.insert(key);
    }
  }
  for (const detail::Attachment& each : plan) {
    for (const AdapterTensor& tensor : kind.tensors(each.module, *each.projection)) {
      const std::string key = kind.key(each.module, tensor.name);
      detail::check_adapter_tensor(file, key, tensor.shape);
      known.insert(key);
    }
    if (const std::string key = detail::kBasePrefix + each.module + ".base_layer.weight"; file.contains(key)) {
      check_base_weight(file, key, *each.projection);
      known.insert(key);
    }
  }
  check_no_other(file, known);
}

void copy_tensors(
    const std::vector<detail::Attachment>& plan, const std::vector<detail::RowsAttachment>& rows,
    const AdapterKind& kind, const SafetensorsFile& file) {
  at::NoGradGuard no_grad;
  for (const detail::RowsAttachment& each : rows) {
    for (at::Tensor& tensor : each.adapter->parameters()) {
      tensor.copy_(file.tensor(each.keys().front()));
    }
  }
  for (const detail::Attachment& each : plan) {
    for (const auto& [name, tensor] : each.adapter->saved_tensors()) {
      at::Tensor(tensor).copy_(file.tensor(kind.key(each.module, name)));
    }
  }
}

/// The same of adapters of attentions: checks their tensors and makes the adapters that hold them.
void fill_attentions(
    std::vector<AttentionSlot>& plan, const AdapterOptions& options, const AttentionAdapterKind& kind,
    const SafetensorsFile& file) {
  std::set<std::string> known;
  std::vector<at::Tensor> tensors;
  for (const AdapterTensor& each : kind.stored(plan)) {
    detail::check_adapter_tensor(file, each.name, each.shape);
    known.insert(each.name);
    tensors.push_back(file.tensor(each.name));
  }
  check_no_other(file, known);
  detail::make_adapters(plan, options);
  kind.restore(tensors, plan);
}

/// Throws where a block holds an adapter of that name: there is no kind of folder that has a place for it.
template <class Block>
void check_no_block_adapter(const torch::nn::Module& model, const std::string& name) {
  for (const auto& item : model.named_modules("", /*include_self=*/false)) {
    const auto* block = item.value()->as<Block>();
    TORCH_CHECK_VALUE(
        block == nullptr || block->adapter(name) == nullptr, "the adapter '", name, "' of ", item.key(),
        " is of a whole block, which an adapter's folder has no place for: torch::save keeps it");
  }
}

/// The tensors of adapters of attentions by their names in the file, sorted.
std::map<std::string, at::Tensor> tensors_to_save(
    const torch::nn::Module& model, const std::string& name, const AttentionAdapterKind& kind) {
  const auto attached = detail::attached_attentions(model, name);
  const auto stored = kind.stored(attached);
  const auto tensors = kind.store(attached);
  std::map<std::string, at::Tensor> sorted;
  for (size_t i = 0; i < stored.size(); ++i) {
    sorted.emplace(stored[i].name, tensors[i].to(at::kFloat));
  }
  return sorted;
}

/// The adapters' tensors by their names in the file, sorted. Throws where one is not what its kind says.
std::map<std::string, at::Tensor> tensors_to_save(
    const torch::nn::Module& model, const std::string& name, const AdapterKind& kind) {
  std::map<std::string, at::Tensor> sorted;
  for (const detail::RowsAttachment& each : detail::attached_rows(model, name)) {
    for (const std::string& key : each.keys()) {
      // Each key its own memory, as the format wants it.
      sorted.emplace(key, each.adapter->parameters().front().detach().to(at::kFloat, false, /*copy=*/true));
    }
  }
  for (const auto& [module, projection] : detail::projections_with(model, name)) {
    if (projection->adapter(name)->as<TrainedRows>() != nullptr) {
      continue;
    }
    const auto tensors = projection->adapter(name)->saved_tensors();
    const auto expected = kind.tensors(module, *projection);
    bool fits = tensors.size() == expected.size();
    for (size_t i = 0; fits && i < tensors.size(); ++i) {
      fits = tensors[i].first == expected[i].name && tensors[i].second.sizes() == expected[i].shape;
      sorted.emplace(kind.key(module, tensors[i].first), tensors[i].second.detach().to(at::kFloat));
    }
    TORCH_CHECK_VALUE(
        fits, module, ": its adapter has not the tensors of the kind ", kind.peft_type(),
        ", which others of its name are of: one folder holds one kind");
  }
  return sorted;
}

void use_dropout(AdapterOptions& options, const LoadAdapterOptions& load) {
  if (!load.dropout() && load.dora_dropout() == ops::DoraDropout::kInput) {
    return;
  }
  if (options.kind()) {
    TORCH_CHECK_VALUE(
        load.dora_dropout() == ops::DoraDropout::kInput, "dora_dropout is asked for, and adapters of the kind ",
        options.kind()->peft_type(), " have no DoRA");
    options.kind(options.kind()->with_dropout(*load.dropout()));
    return;
  }
  LowRankOptions low_rank = options.low_rank();
  low_rank.dropout(load.dropout().value_or(low_rank.dropout())).dora_dropout(load.dora_dropout()).validate();
  options.low_rank(low_rank);
}

} // namespace

void save_adapter(const torch::nn::Module& model, const std::filesystem::path& folder, const SaveAdapterOptions& save) {
  const AdapterOptions options = detail::saved_options(model, save.name(), save.portable());
  const auto of_attentions = detail::attention_kind(options);
  if (!of_attentions) {
    check_no_block_adapter<AttentionImpl>(model, save.name());
  }
  check_no_block_adapter<MLPImpl>(model, save.name());
  const auto sorted = of_attentions ? tensors_to_save(model, save.name(), *of_attentions)
                                    : tensors_to_save(model, save.name(), *options.resolved_kind());
  detail::write_adapter_files(folder, detail::adapter_config_json(options, save.base_model()), sorted);
}

AdapterOptions read_adapter_config(const std::filesystem::path& folder) {
  detail::require_folder(folder);
  const std::filesystem::path path = folder / detail::kConfigFile;
  return detail::parse_adapter_config(path, read_file(path));
}

AdapterOptions load_adapter(
    torch::nn::Module& model, const std::filesystem::path& folder, const LoadAdapterOptions& load) {
  detail::check_attachable(model, load.name());
  AdapterOptions options = read_adapter_config(folder);
  use_dropout(options, load);
  const SafetensorsFile file = detail::open_adapter_weights(folder);
  const auto of_attentions = detail::attention_kind(options);
  std::vector<AttentionSlot> attentions;
  std::vector<detail::Attachment> plan;
  std::vector<detail::RowsAttachment> rows;
  try {
    if (of_attentions) {
      attentions = detail::plan_attentions(model, options);
    } else {
      plan = detail::plan_attachments(model, options);
      rows = detail::plan_rows(model, options);
      std::vector<std::string> modules;
      for (const detail::Attachment& each : plan) {
        modules.push_back(each.module);
      }
      options.resolved_kind()->check_modules(modules);
    }
  } catch (const c10::ValueError& error) {
    throw FormatError(folder / detail::kConfigFile, error.what_without_backtrace());
  }
  if (of_attentions) {
    fill_attentions(attentions, options, *of_attentions, file);
    detail::attach(model, attentions, load.name());
    return options;
  }
  const auto kind = options.resolved_kind();
  check_tensors(plan, rows, *kind, file);
  detail::make_adapters(plan, options, [](const std::string&) { return WeightStatistics(); });
  detail::make_rows(rows);
  copy_tensors(plan, rows, *kind, file);
  detail::attach_rows(model, rows, load.name());
  detail::attach(plan, load.name());
  return options;
}

AdapterOptions load_adapter(torch::nn::Module& model, const std::filesystem::path& folder, const std::string& name) {
  return load_adapter(model, folder, LoadAdapterOptions().name(name));
}

} // namespace rora
