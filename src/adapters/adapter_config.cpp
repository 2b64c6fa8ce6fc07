#include "adapter_config.h"

#include "../checkpoint/json_object.h"
#include "kinds/table.h"
#include "module_matching.h"

#include <rora/adapters/adapter_kind.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <iterator>
#include <set>

namespace rora::detail {
namespace {

/// Fields of any kind that say nothing about what the adapter computes.
const std::set<std::string> kInformative{
    "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "task_type"};

/// Fields of any kind that are read: which modules are meant.
const std::set<std::string> kRead{
    "peft_type",      "target_modules",  "exclude_modules",         "layers_to_transform",
    "layers_pattern", "modules_to_save", "trainable_token_indices", "ensure_weight_tying"};

/// The order in which a folder's config holds its fields; those of other kinds come behind.
const std::vector<std::string> kOrder{
    "peft_type",
    "task_type",
    "base_model_name_or_path",
    "inference_mode",
    "r",
    "lora_alpha",
    "use_rslora",
    "use_dora",
    "lora_dropout",
    "target_modules",
    "exclude_modules",
    "rank_pattern",
    "alpha_pattern",
    "layers_to_transform",
    "bias",
    "fan_in_fan_out",
    "modules_to_save",
    "trainable_token_indices",
    "ensure_weight_tying",
    "init_lora_weights"};

AdapterKindEntry read_kind(const JsonObject& config) {
  const std::string peft_type = config.string("peft_type");
  const auto kind = find_adapter_kind(peft_type);
  if (!kind) {
    config.fail("peft_type", "must be " + known_adapter_kinds() + ", not " + peft_type);
  }
  return *kind;
}

void refuse_unsupported(const JsonObject& config, const std::vector<std::string>& of_kind) {
  for (const std::string& field : config.names()) {
    const bool known = kRead.count(field) || kInformative.count(field) ||
        std::find(of_kind.begin(), of_kind.end(), field) != of_kind.end();
    if (!known && !config.is_off(field)) {
      config.fail(field, "is not supported: " + config.text(field));
    }
  }
  for (const std::string& pattern : config.strings("layers_pattern")) {
    if (pattern != "layers") {
      config.fail("layers_pattern", "'" + pattern + "' is not supported (layers is)");
    }
  }
}

/// Throws where a config says which modules are meant whose kind is of every attention.
void refuse_selection(const JsonObject& config) {
  for (const std::string& field : kRead) {
    if (field != "peft_type" && !config.is_off(field)) {
      config.fail(field, "does not go with adapters of attentions: " + config.text(field));
    }
  }
}

ModuleSelection read_selection(const JsonObject& config, const std::string& field) {
  if (!config.is_string(field)) {
    return config.strings(field);
  }
  const std::string text = config.string(field);
  if (text == "all-linear") {
    return ModuleSelection::every_linear();
  }
  try {
    FullMatch{text};
  } catch (const c10::ValueError& error) {
    config.fail(field, error.what_without_backtrace());
  }
  return ModuleSelection::matching(text);
}

void write_selection(JsonFields& fields, const std::string& field, const ModuleSelection& selection) {
  if (selection.all_linear) {
    fields.set(field, "all-linear");
  } else if (!selection.regex.empty()) {
    fields.set(field, selection.regex);
  } else if (selection.names.empty()) {
    fields.set(field, nullptr);
  } else {
    fields.set(field, selection.names);
  }
}

/// A list is of the embedding.
TokenIndices read_token_indices(const JsonObject& config) {
  const std::string field = "trainable_token_indices";
  TokenIndices indices;
  if (config.is_object(field)) {
    const JsonObject by_module = config.object(field);
    for (const std::string& module : by_module.names()) {
      indices.emplace_back(module, by_module.integers(module));
    }
  } else if (config.has(field)) {
    indices.emplace_back("embed_tokens", config.integers(field));
  }
  return indices;
}

/// What is trained beside the adapters. Null where nothing is, as PEFT has it.
void write_rows(JsonFields& fields, const AdapterOptions& options) {
  if (options.modules_to_save().empty()) {
    fields.set("modules_to_save", nullptr);
  } else {
    fields.set("modules_to_save", options.modules_to_save());
  }
  const TokenIndices& tokens = options.trainable_token_indices();
  if (tokens.size() == 1 && tokens.front().first == "embed_tokens") {
    fields.set("trainable_token_indices", tokens.front().second);
  } else if (!tokens.empty()) {
    JsonFields by_module;
    for (const auto& [module, indices] : tokens) {
      by_module.set(module, indices);
    }
    fields.set("trainable_token_indices", by_module);
  }
  if (options.ensure_weight_tying()) {
    fields.set("ensure_weight_tying", true);
  }
}

JsonFields in_order(JsonFields fields) {
  Json& unordered = json_of(fields);
  JsonFields ordered;
  for (const std::string& field : kOrder) {
    if (unordered.contains(field)) {
      json_of(ordered)[field] = unordered[field];
    }
  }
  for (const auto& [field, value] : unordered.items()) {
    json_of(ordered)[field] = value;
  }
  return ordered;
}

} // namespace

AdapterOptions parse_adapter_config(const std::filesystem::path& path, const std::string& text) {
  const JsonObject config = JsonObject::parse(path, text);
  const AdapterKindEntry kind = read_kind(config);
  refuse_unsupported(config, kind.fields);
  AdapterOptions options;
  const auto parsed = kind.parse(config);
  if (std::dynamic_pointer_cast<const AttentionAdapterKind>(parsed)) {
    refuse_selection(config);
    options.target_modules(ModuleSelection());
    parsed->put_into(options);
    return options;
  }
  options.target_modules(read_selection(config, "target_modules"));
  options.exclude_modules(read_selection(config, "exclude_modules"));
  options.layers_to_transform(config.integers("layers_to_transform"));
  options.modules_to_save(config.strings("modules_to_save"));
  options.trainable_token_indices(read_token_indices(config));
  options.ensure_weight_tying(config.boolean("ensure_weight_tying", false));
  if (options.target_modules().empty()) {
    config.fail("target_modules", "is missing");
  }
  parsed->put_into(options);
  return options;
}

std::vector<std::string> targeted_in_folder(const AdapterOptions& options, std::vector<std::string> modules) {
  const std::set<std::string> existing(modules.begin(), modules.end());
  if (!options.exclude_modules().empty()) { // what is excluded has no tensors: each target stands for itself
    std::copy_if(
        options.target_modules().names.begin(), options.target_modules().names.end(), std::back_inserter(modules),
        [&](const std::string& target) { return existing.count(target) == 0; });
  }
  std::vector<std::string> meant = targeted_modules(options, modules);
  std::erase_if(meant, [&](const std::string& module) { return existing.count(module) == 0; });
  return meant;
}

std::string adapter_config_json(const AdapterOptions& options, const std::string& base_model) {
  const auto kind = options.resolved_kind();
  JsonFields fields;
  kind->write(fields);
  fields.set("peft_type", kind->peft_type());
  fields.set("task_type", "CAUSAL_LM");
  if (base_model.empty()) {
    fields.set("base_model_name_or_path", nullptr);
  } else {
    fields.set("base_model_name_or_path", base_model);
  }
  fields.set("inference_mode", true);
  if (std::dynamic_pointer_cast<const AttentionAdapterKind>(kind)) {
    return in_order(std::move(fields)).text();
  }
  write_selection(fields, "target_modules", options.target_modules());
  write_selection(fields, "exclude_modules", options.exclude_modules());
  if (options.layers_to_transform().empty()) {
    fields.set("layers_to_transform", nullptr);
  } else {
    fields.set("layers_to_transform", options.layers_to_transform());
  }
  write_rows(fields, options);
  return in_order(std::move(fields)).text();
}

} // namespace rora::detail
