#include "adapter_flags.h"
#include "command.h"
#include "model_flags.h"

#include <rora/adapters/adapter_kind.h>
#include <rora/adapters/attach.h>
#include <rora/adapters/peft_folder.h>
#include <rora/checkpoint/model_folder.h>
#include <rora/checkpoint/safetensors.h>
#include <rora/error.h>
#include <rora/model/decoder_options.h>

#include <cstdio>
#include <iostream>
#include <set>

namespace rora::cli {
namespace {

struct Arguments {
  std::optional<std::string> model;
  std::optional<std::string> adapter;
  bool params = false;
  AdapterFlags adapted;
};

/// Parameters and dtypes of tensors, however they are stored.
template <typename Source>
void count(const Source& source, Json& json) {
  int64_t parameters = 0;
  std::set<std::string> dtypes;
  for (const std::string& name : source.names()) {
    int64_t size = 1;
    for (const int64_t each : source.shape(name)) {
      size *= each;
    }
    parameters += size;
    dtypes.insert(dtype_text(source.dtype(name)));
  }
  json["tensors"] = source.names().size();
  json["parameters"] = parameters;
  json["dtype"] = dtypes.size() == 1 ? Json(*dtypes.begin()) : Json(dtypes);
}

Json describe_model(const std::filesystem::path& path) {
  const DecoderOptions options = read_model_config(path);
  Json json;
  json["model"] = path.string();
  json["model_type"] = options.model_type();
  count(ModelFolder(path), json);
  json["hidden_size"] = options.hidden_size();
  json["intermediate_size"] = options.intermediate_size();
  json["num_hidden_layers"] = options.num_hidden_layers();
  json["num_attention_heads"] = options.layer_shape(0).num_attention_heads;
  json["num_key_value_heads"] = options.layer_shape(0).num_key_value_heads;
  json["head_dim"] = options.resolved_head_dim();
  json["vocab_size"] = options.vocab_size();
  json["max_position_embeddings"] = options.max_position_embeddings();
  json["tie_word_embeddings"] = options.tie_word_embeddings();
  Json& tokenizers = json["tokenizer"] = Json::array();
  for (const char* name : {"tokenizer.model", "tokenizer.json"}) {
    if (std::filesystem::exists(path / name)) {
      tokenizers.push_back(name);
    }
  }
  return json;
}

Json describe_adapter(const std::filesystem::path& path) {
  const AdapterOptions options = read_adapter_config(path);
  Json json;
  json["adapter"] = path.string();
  count(SafetensorsFile(path / "adapter_model.safetensors"), json);
  JsonFields of_kind;
  options.resolved_kind()->describe(of_kind);
  json.update(Json::parse(of_kind.text()));
  const ModuleSelection& targets = options.target_modules();
  if (!targets.empty()) { // of attentions there are none to choose among
    json["target_modules"] = targets.all_linear ? Json("all-linear")
        : targets.regex.empty()                 ? Json(targets.names)
                                                : Json(targets.regex);
  }
  if (!options.modules_to_save().empty()) {
    json["modules_to_save"] = options.modules_to_save();
  }
  for (const auto& [module, tokens] : options.trainable_token_indices()) {
    json["trainable_token_indices"][module] = tokens;
  }
  return json;
}

/// What of a path is not UTF-8 shows as U+FFFD.
std::string text_of(const Json& json) {
  return json.dump(2, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

/// The trained share of all parameters, 100*T/(P+T) in percent, of adapters that are not there yet: a table.
void print_shares(const std::filesystem::path& model, const AdapterOptions& options, std::ostream& out) {
  const DecoderOptions config = read_model_config(model);
  const auto print = [&](const std::string& method, const ParameterCounts& counts) {
    char line[160];
    std::snprintf(
        line, sizeof(line), "%-10s  %14lld  %15lld  %10.4f\n", method.c_str(), static_cast<long long>(counts.trainable),
        static_cast<long long>(counts.total), counts.share());
    out << line;
  };
  const auto with = [&](bool dora) {
    return count_parameters(config, AdapterOptions(options).low_rank(LowRankOptions(options.low_rank()).dora(dora)));
  };
  out << "method           trainable              all           %\n";
  const ParameterCounts low_rank = with(/*dora=*/false);
  print("lora, rora", low_rank);
  print("dora", with(/*dora=*/true));
  const int64_t base = low_rank.total - low_rank.trainable;
  print("full", {base, base});
}

int inspect(const Arguments& arguments, const Flags& flags) {
  for (const char* flag : {"rank", "target-modules"}) {
    if (flags.given(flag) && !arguments.params) {
      throw UsageError(std::string("--") + flag + " needs --params");
    }
  }
  if (arguments.params) {
    if (!arguments.model || arguments.adapter) {
      throw UsageError("--params needs --model and goes without --adapter");
    }
    print_shares(*arguments.model, AdapterFlags(arguments.adapted).resolve(flags), std::cout);
    return 0;
  }
  if (!arguments.model && !arguments.adapter) {
    throw UsageError("at least one of --model and --adapter is required");
  }
  if (arguments.model) {
    std::cout << text_of(describe_model(*arguments.model)) << "\n";
  }
  if (arguments.adapter) {
    std::cout << text_of(describe_adapter(*arguments.adapter)) << "\n";
  }
  return 0;
}

} // namespace

Run add_inspect(Flags& flags) {
  auto arguments = std::make_shared<Arguments>();
  flags.add("model", arguments->model, "A model's Hugging Face folder (default: none)");
  flags.add("adapter", arguments->adapter, "An adapter's PEFT folder (default: none)");
  flags.add(
      "params", arguments->params,
      "Print the share of parameters that adapters of --model train, from its config.json alone (default: off)");
  arguments->adapted.add_rank(flags);
  arguments->adapted.add_target_modules(flags);
  return [arguments, &flags] { return inspect(*arguments, flags); };
}

} // namespace rora::cli
