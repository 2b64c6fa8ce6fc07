#include <rora/model/decoder_options.h>

#include "../../checkpoint/json_object.h"
#include "../special_tokens.h"

#include <rora/checkpoint/file.h>
#include <rora/error.h>

#include <stdexcept>

namespace rora {
namespace {

using detail::Json;
using detail::JsonObject;

constexpr double kDefaultTheta = 10000.0;

/// One `rope_scaling` or `rope_parameters` object.
RopeOptions read_rope(const JsonObject& rope, double theta) {
  for (const std::string& field : rope.names()) {
    if (rope.is_object(field)) {
      rope.fail(field, "is not supported: all layers share one rotary embedding");
    }
  }
  if (rope.number("partial_rotary_factor", 1.0) != 1.0) {
    rope.fail("partial_rotary_factor", "other than 1 is not supported");
  }
  RopeOptions options;
  options.theta(rope.number("rope_theta", theta));
  const std::string type = rope.has("rope_type") ? rope.string("rope_type") : rope.string("type", "default");
  if (type == "default") {
    return options;
  }
  if (type == "linear") {
    options.scaling(RopeScaling::kLinear);
  } else if (type == "dynamic") {
    options.scaling(RopeScaling::kDynamic);
  } else if (type == "llama3") {
    options.scaling(RopeScaling::kLlama3);
  } else {
    rope.fail("rope_type", "'" + type + "' is not supported (default, linear, dynamic, llama3 are)");
  }
  rope.number("factor");
  options.factor(rope.number("factor", 1.0));
  if (options.scaling() == RopeScaling::kLlama3) {
    for (const char* field : {"low_freq_factor", "high_freq_factor"}) {
      rope.number(field);
    }
    options.original_max_position_embeddings(rope.integer("original_max_position_embeddings", 0));
    options.low_freq_factor(rope.number("low_freq_factor", 1.0));
    options.high_freq_factor(rope.number("high_freq_factor", 4.0));
    if (options.high_freq_factor() <= options.low_freq_factor()) {
      rope.fail("high_freq_factor", "must be over low_freq_factor");
    }
  }
  return options;
}

/// What a config may ask for that this library lacks is refused, never ignored.
void refuse_unsupported(const JsonObject& config) {
  const std::string type = config.string("model_type", "llama");
  if (type != "llama") {
    config.fail("model_type", "'" + type + "' is not supported (llama is)");
  }
  const std::string activation = config.string("hidden_act", "silu");
  if (activation != "silu" && activation != "swish") {
    config.fail("hidden_act", "'" + activation + "' is not supported (silu is)");
  }
  if (config.number("attention_dropout", 0.0) != 0.0) {
    config.fail("attention_dropout", "over 0 is not supported");
  }
  if (config.has("quantization_config")) {
    config.fail("quantization_config", "is not supported: weights must be stored unquantised");
  }
  if (config.number("partial_rotary_factor", 1.0) != 1.0) {
    config.fail("partial_rotary_factor", "other than 1 is not supported");
  }
  if (config.has("sliding_window")) {
    config.fail("sliding_window", "is not supported");
  }
}

Json rope_json(const DecoderOptions& options) {
  const RopeOptions& rope = options.rope();
  const int64_t original = rope.original_max_position_embeddings();
  Json json;
  switch (rope.scaling()) {
    case RopeScaling::kNone:
      return nullptr;
    case RopeScaling::kLinear:
      json["rope_type"] = "linear";
      break;
    case RopeScaling::kDynamic:
      json["rope_type"] = "dynamic";
      break;
    case RopeScaling::kLlama3:
      json["rope_type"] = "llama3";
      json["low_freq_factor"] = rope.low_freq_factor();
      json["high_freq_factor"] = rope.high_freq_factor();
      json["original_max_position_embeddings"] = original > 0 ? original : options.max_position_embeddings();
      break;
  }
  json["factor"] = rope.factor();
  return json;
}

} // namespace

DecoderOptions read_model_config(const std::filesystem::path& folder_or_file) {
  const bool file = std::filesystem::is_regular_file(folder_or_file);
  const std::filesystem::path path = file ? folder_or_file : folder_or_file / "config.json";
  const JsonObject config = JsonObject::parse(path, read_file(path));
  refuse_unsupported(config);
  DecoderOptions options;
  options.vocab_size(config.integer("vocab_size"));
  options.hidden_size(config.integer("hidden_size"));
  options.intermediate_size(config.integer("intermediate_size"));
  options.num_hidden_layers(config.integer("num_hidden_layers"));
  options.num_attention_heads(config.integer("num_attention_heads"));
  options.num_key_value_heads(config.integer("num_key_value_heads", 0));
  options.head_dim(config.integer("head_dim", 0));
  options.max_position_embeddings(config.integer("max_position_embeddings", options.max_position_embeddings()));
  options.rms_norm_eps(config.number("rms_norm_eps", options.rms_norm_eps()));
  options.initializer_range(config.number("initializer_range", options.initializer_range()));
  options.tie_word_embeddings(config.boolean("tie_word_embeddings", false));
  options.attention_bias(config.boolean("attention_bias", false));
  options.mlp_bias(config.boolean("mlp_bias", false));
  options.eos_token_id(detail::config_eos_token_id(config));
  options.bos_token_id(detail::config_bos_token_id(config));

  const double theta = config.number("rope_theta", kDefaultTheta);
  options.rope(RopeOptions().theta(theta));
  for (const char* field : {"rope_parameters", "rope_scaling"}) { // transformers: rope_scaling or rope_parameters
    if (config.has(field) && !config.object(field).names().empty()) {
      options.rope(read_rope(config.object(field), theta));
    }
  }
  if (options.rope().scaling() == RopeScaling::kLlama3 && config.has("original_max_position_embeddings")) {
    options.rope().original_max_position_embeddings(config.integer("original_max_position_embeddings"));
  }
  try {
    options.validate();
  } catch (const std::invalid_argument& error) {
    throw FormatError(path, error.what());
  }
  return options;
}

std::string model_config_json(const DecoderOptions& options, const std::string& torch_dtype) {
  Json json;
  json["architectures"] = {"LlamaForCausalLM"};
  json["model_type"] = "llama";
  json["hidden_act"] = "silu";
  json["vocab_size"] = options.vocab_size();
  json["hidden_size"] = options.hidden_size();
  json["intermediate_size"] = options.intermediate_size();
  json["num_hidden_layers"] = options.num_hidden_layers();
  json["num_attention_heads"] = options.num_attention_heads();
  json["num_key_value_heads"] =
      options.num_key_value_heads() > 0 ? options.num_key_value_heads() : options.num_attention_heads();
  json["head_dim"] = options.resolved_head_dim();
  json["max_position_embeddings"] = options.max_position_embeddings();
  json["rms_norm_eps"] = options.rms_norm_eps();
  json["initializer_range"] = options.initializer_range();
  json["tie_word_embeddings"] = options.tie_word_embeddings();
  json["attention_bias"] = options.attention_bias();
  json["mlp_bias"] = options.mlp_bias();
  json["rope_theta"] = options.rope().theta();
  json["rope_scaling"] = rope_json(options);
  json["bos_token_id"] = options.bos_token_id() ? Json(*options.bos_token_id()) : Json(nullptr);
  const auto& eos = options.eos_token_id();
  json["eos_token_id"] = eos.empty() ? Json(nullptr) : eos.size() == 1 ? Json(eos[0]) : Json(eos);
  json["torch_dtype"] = torch_dtype;
  return json.dump(2) + "\n";
}

} // namespace rora
