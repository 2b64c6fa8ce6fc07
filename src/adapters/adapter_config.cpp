#include "adapter_config.h"

#include "../checkpoint/json_object.h"
#include "module_matching.h"

#include <rora/core/initializer.h>

#include <set>
#include <stdexcept>

namespace rora::detail {
namespace {

/// Fields that say nothing about what the adapter computes.
const std::set<std::string> kInformative{
    "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "task_type",
    "megatron_core", // the name of a module, used only with megatron_config
    "qalora_group_size", // used only with use_qalora
    "loftq_config", "eva_config", "corda_config", "lora_ga_config"}; // of initialisations, which are judged by name

/// Fields that are read.
const std::set<std::string> kRead{
    "peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "bias", "target_modules",
    "exclude_modules", "rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern", "init_lora_weights"};

/// Values of init_lora_weights that fill A and B alone, which the folder stores. The others (PiSSA, OLoRA, CorDA,
/// LoftQ, LoRA-GA) change the base weights too, and PEFT changes them again as it loads.
const std::set<Json> kInitializations{nullptr, true, false, "gaussian", "eva", "orthogonal", "mica"};

void refuse_unsupported(const JsonObject& config) {
  for (const std::string& field : config.names()) {
    if (!kRead.count(field) && !kInformative.count(field) && !config.is_off(field)) {
      config.fail(field, "is not supported: " + config.text(field));
    }
  }
  if (config.string("peft_type") != "LORA") {
    config.fail("peft_type", "must be LORA, not " + config.string("peft_type"));
  }
  if (config.string("bias", "none") != "none") {
    config.fail("bias", "'" + config.string("bias") + "' is not supported (none is)");
  }
  if (config.has("layers_pattern")) {
    for (const std::string& pattern : config.strings("layers_pattern")) {
      if (pattern != "layers") {
        config.fail("layers_pattern", "'" + pattern + "' is not supported (layers is)");
      }
    }
  }
  if (const auto& json = json_of(config); json.contains("init_lora_weights")) {
    if (!kInitializations.count(json.at("init_lora_weights"))) {
      config.fail("init_lora_weights", "is not supported: " + json.at("init_lora_weights").dump());
    }
  }
}

ModuleSelection read_selection(const JsonObject& config, const std::string& field) {
  if (!config.has(field)) {
    return {};
  }
  if (!config.is_string(field)) {
    return config.strings(field);
  }
  const std::string text = config.string(field);
  if (text == "all-linear") {
    return ModuleSelection::every_linear();
  }
  try {
    FullMatch{text};
  } catch (const std::invalid_argument& error) {
    config.fail(field, error.what());
  }
  return ModuleSelection::matching(text);
}

template <typename T, typename Read>
ModulePattern<T> read_pattern(const JsonObject& config, const std::string& field, Read read) {
  ModulePattern<T> pattern;
  if (!config.has(field)) {
    return pattern;
  }
  const JsonObject object = config.object(field);
  for (const auto& [key, value] : json_of(object).items()) {
    try {
      FullMatch{key};
    } catch (const std::invalid_argument& error) {
      config.fail(field, error.what());
    }
    pattern.emplace_back(key, read(object, key));
  }
  return pattern;
}

Json selection_json(const ModuleSelection& selection) {
  if (selection.all_linear) {
    return "all-linear";
  }
  if (!selection.regex.empty()) {
    return selection.regex;
  }
  return selection.names.empty() ? Json(nullptr) : Json(selection.names);
}

/// As an integer where it is one: PEFT's own files have it so.
Json number_json(double value) {
  const auto whole = static_cast<int64_t>(value);
  return static_cast<double>(whole) == value ? Json(whole) : Json(value);
}

template <typename T, typename Write>
Json pattern_json(const ModulePattern<T>& pattern, Write write) {
  Json json = Json::object();
  for (const auto& [key, value] : pattern) {
    json[key] = write(value);
  }
  return json;
}

} // namespace

AdapterOptions parse_adapter_config(const std::filesystem::path& path, const std::string& text) {
  const JsonObject config = JsonObject::parse(path, text);
  refuse_unsupported(config);
  LowRankOptions low_rank; // PEFT's own defaults for what is absent
  low_rank.rank(config.integer("r", 8));
  low_rank.alpha(config.number("lora_alpha", 8.0));
  low_rank.dropout(config.number("lora_dropout", 0.0));
  low_rank.scaling(config.boolean("use_rslora", false) ? Scaling::kRankStabilized : Scaling::kStandard);
  low_rank.dora(config.boolean("use_dora", false));
  if (config.has("init_lora_weights") && json_of(config).at("init_lora_weights") == "gaussian") {
    low_rank.initializer(gaussian());
  }
  AdapterOptions options;
  options.target_modules(read_selection(config, "target_modules"));
  options.exclude_modules(read_selection(config, "exclude_modules"));
  options.rank_pattern(read_pattern<int64_t>(
      config, "rank_pattern", [](const JsonObject& object, const std::string& key) { return object.integer(key); }));
  options.alpha_pattern(read_pattern<double>(
      config, "alpha_pattern", [](const JsonObject& object, const std::string& key) { return object.number(key); }));
  options.layers_to_transform(config.integers("layers_to_transform"));
  if (low_rank.rank() < 1) {
    config.fail("r", "must be at least 1, not " + std::to_string(low_rank.rank()));
  }
  for (const auto& [key, rank] : options.rank_pattern()) {
    if (rank < 1) {
      config.fail("rank_pattern." + key, "must be at least 1, not " + std::to_string(rank));
    }
  }
  if (low_rank.dropout() < 0.0 || low_rank.dropout() >= 1.0) {
    config.fail("lora_dropout", "must be in [0, 1)");
  }
  if (options.target_modules().empty()) {
    config.fail("target_modules", "is missing");
  }
  return options.low_rank(low_rank);
}

std::string adapter_config_json(const AdapterOptions& options, const std::string& base_model) {
  const LowRankOptions& low_rank = options.low_rank();
  Json json;
  json["peft_type"] = "LORA";
  json["task_type"] = "CAUSAL_LM";
  json["base_model_name_or_path"] = base_model.empty() ? Json(nullptr) : Json(base_model);
  json["inference_mode"] = true;
  json["r"] = low_rank.rank();
  json["lora_alpha"] = number_json(low_rank.alpha());
  json["use_rslora"] = low_rank.scaling() == Scaling::kRankStabilized;
  json["use_dora"] = low_rank.dora();
  json["lora_dropout"] = low_rank.dropout();
  json["target_modules"] = selection_json(options.target_modules());
  json["exclude_modules"] = selection_json(options.exclude_modules());
  json["rank_pattern"] = pattern_json(options.rank_pattern(), [](int64_t rank) { return Json(rank); });
  json["alpha_pattern"] = pattern_json(options.alpha_pattern(), number_json);
  const auto& layers = options.layers_to_transform();
  json["layers_to_transform"] = layers.empty() ? Json(nullptr) : Json(layers);
  json["bias"] = "none";
  json["fan_in_fan_out"] = false;
  json["modules_to_save"] = nullptr;
  json["init_lora_weights"] =
      low_rank.initializer() && low_rank.initializer()->name() != "true" ? Json(low_rank.initializer()->name()) : Json(true);
  return json.dump(2) + "\n";
}

} // namespace rora::detail
