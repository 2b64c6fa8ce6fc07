#include "families.h"

#include <algorithm>

namespace rora {
namespace {

constexpr int64_t kMaxLayers = 10'000; // that of DecoderOptions::validate: families go through the layers before it

/// What a config may ask for that no model of this library does is refused, never ignored.
void refuse_unsupported(const JsonObject& config) {
  if (config.number("attention_dropout", 0.0) != 0.0) {
    config.fail("attention_dropout", "over 0 is not supported");
  }
  if (config.has("quantization_config")) {
    config.fail("quantization_config", "is not supported: weights must be stored unquantised");
  }
  if (config.number("partial_rotary_factor", 1.0) != 1.0) {
    config.fail("partial_rotary_factor", "other than 1 is not supported");
  }
  if (!config.boolean("is_causal", true)) {
    config.fail("is_causal", "false is not supported: no token sees those after it");
  }
  if (!config.is_off("per_layer_config")) {
    config.fail("per_layer_config", "is not supported");
  }
}

/// A size that follows from others where it is null, which transformers tells apart from an absent one: then 0.
int64_t read_nullable(const JsonObject& config, const char* field, int64_t absent) {
  return config.contains(field) ? config.integer(field, 0) : absent;
}

std::vector<int64_t> read_eos_token_id(const JsonObject& config, const DecoderOptions& absent) {
  return config.contains("eos_token_id") ? config.integers("eos_token_id") : absent.eos_token_id();
}

std::optional<int64_t> read_bos_token_id(const JsonObject& config, const DecoderOptions& absent) {
  if (!config.contains("bos_token_id")) {
    return absent.bos_token_id();
  }
  return config.has("bos_token_id") ? std::optional(config.integer("bos_token_id")) : std::nullopt;
}

void set_rope_scaling(JsonFields& fields, const DecoderOptions& options) {
  const RopeOptions& rope = options.rope();
  const int64_t original = rope.original_max_position_embeddings();
  JsonFields scaling;
  switch (rope.scaling()) {
    case RopeScaling::kNone:
      fields.set("rope_scaling", nullptr);
      return;
    case RopeScaling::kLinear:
      scaling.set("rope_type", "linear");
      break;
    case RopeScaling::kDynamic:
      scaling.set("rope_type", "dynamic");
      break;
    case RopeScaling::kLlama3:
      scaling.set("rope_type", "llama3")
          .set("low_freq_factor", rope.low_freq_factor())
          .set("high_freq_factor", rope.high_freq_factor())
          .set("original_max_position_embeddings", original > 0 ? original : options.max_position_embeddings());
      break;
  }
  fields.set("rope_scaling", scaling.set("factor", rope.factor()));
}

void set_special_tokens(JsonFields& fields, const DecoderOptions& options) {
  if (options.bos_token_id()) {
    fields.set("bos_token_id", *options.bos_token_id());
  } else {
    fields.set("bos_token_id", nullptr);
  }
  const std::vector<int64_t>& eos = options.eos_token_id();
  if (eos.empty()) {
    fields.set("eos_token_id", nullptr);
  } else if (eos.size() == 1) {
    fields.set("eos_token_id", eos[0]);
  } else {
    fields.set("eos_token_id", eos);
  }
}

/// The widths that config.json says of all layers: theirs where they are alike. Those of unlike layers it cannot say:
/// the tensors do.
LayerShape common_shape(const DecoderOptions& options) {
  const std::vector<LayerShape>& shapes = options.layer_shapes();
  const bool alike =
      std::all_of(shapes.begin(), shapes.end(), [&](const LayerShape& each) { return each == shapes.front(); });
  return alike ? options.layer_shape(0) : DecoderOptions(options).layer_shapes({}).layer_shape(0);
}

/// What LLaMA's config.json has no field for, under the names of the families that have it.
void set_options_beyond_llama(JsonFields& fields, const DecoderOptions& options) {
  if (options.sliding_window() > 0) {
    fields.set("sliding_window", options.sliding_window());
  }
  if (!options.layer_types().empty()) {
    std::vector<std::string> types;
    for (const LayerType type : options.layer_types()) {
      types.emplace_back(type == LayerType::kSlidingAttention ? "sliding_attention" : "full_attention");
    }
    fields.set("layer_types", types);
  }
  if (!options.no_rope_layers().empty()) {
    fields.set("no_rope_layers", options.no_rope_layers());
  }
  const auto set_multiplier = [&](const char* field, double value, double absent) {
    if (value != absent) {
      fields.set(field, value);
    }
  };
  const DecoderOptions absent;
  set_multiplier("embedding_multiplier", options.embedding_multiplier(), absent.embedding_multiplier());
  set_multiplier("residual_multiplier", options.residual_multiplier(), absent.residual_multiplier());
  set_multiplier("attention_multiplier", options.attention_multiplier(), absent.attention_multiplier());
  set_multiplier("logits_scaling", options.logits_scaling(), absent.logits_scaling());
}

} // namespace

namespace detail {

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

Activation read_activation(const JsonObject& config, const char* field, const char* absent) {
  const std::string name = config.string(field, absent);
  if (name == "silu" || name == "swish") {
    return Activation::kSiLU;
  }
  if (name == "gelu_pytorch_tanh") {
    return Activation::kGELUTanh;
  }
  config.fail(field, "'" + name + "' is not supported (silu and gelu_pytorch_tanh are)");
}

} // namespace detail

DecoderOptions detail::read_config_without_rope(const ModelFamily& family, const JsonObject& config) {
  refuse_unsupported(config);
  const DecoderOptions absent = family.absent_fields();
  DecoderOptions options;
  options.model_type(config.string("model_type", options.model_type()));
  options.hidden_act(detail::read_activation(config, "hidden_act", "silu"));
  options.vocab_size(config.integer("vocab_size"));
  options.hidden_size(config.integer("hidden_size"));
  options.intermediate_size(config.integer("intermediate_size"));
  options.num_hidden_layers(config.integer("num_hidden_layers"));
  if (options.num_hidden_layers() < 1) {
    config.fail("num_hidden_layers", "must be at least 1, not " + std::to_string(options.num_hidden_layers()));
  }
  if (options.num_hidden_layers() > kMaxLayers) {
    config.fail("num_hidden_layers", "must be at most 10000, not " + std::to_string(options.num_hidden_layers()));
  }
  options.num_attention_heads(config.integer("num_attention_heads"));
  options.num_key_value_heads(read_nullable(config, "num_key_value_heads", absent.num_key_value_heads()));
  options.head_dim(read_nullable(config, "head_dim", absent.head_dim()));
  options.max_position_embeddings(config.integer("max_position_embeddings", absent.max_position_embeddings()));
  options.rms_norm_eps(config.number("rms_norm_eps", absent.rms_norm_eps()));
  options.initializer_range(config.number("initializer_range", absent.initializer_range()));
  options.tie_word_embeddings(config.boolean("tie_word_embeddings", absent.tie_word_embeddings()));
  options.attention_bias(config.boolean("attention_bias", false));
  options.mlp_bias(config.boolean("mlp_bias", false));
  options.eos_token_id(read_eos_token_id(config, absent));
  options.bos_token_id(read_bos_token_id(config, absent));
  return options;
}

DecoderOptions read_shared_config(const ModelFamily& family, const JsonObject& config) {
  DecoderOptions options = detail::read_config_without_rope(family, config);
  const double theta = config.number("rope_theta", family.absent_fields().rope().theta());
  options.rope(RopeOptions().theta(theta));
  for (const char* field : {"rope_parameters", "rope_scaling"}) { // transformers: rope_scaling or rope_parameters
    if (config.has(field) && !config.object(field).names().empty()) {
      options.rope(detail::read_rope(config.object(field), theta));
    }
  }
  if (options.rope().scaling() == RopeScaling::kLlama3 && config.has("original_max_position_embeddings")) {
    options.rope().original_max_position_embeddings(config.integer("original_max_position_embeddings"));
  }
  return options;
}

JsonFields write_shared_config(
    const ModelFamily& family, const DecoderOptions& options, const std::string& torch_dtype) {
  const LayerShape shape = common_shape(options);
  const ProjectionBiases& bias = options.bias();
  JsonFields fields;
  fields.set("architectures", std::vector<std::string>{family.architecture()})
      .set("model_type", family.model_type())
      .set("hidden_act", options.hidden_act() == Activation::kSiLU ? "silu" : "gelu_pytorch_tanh")
      .set("vocab_size", options.vocab_size())
      .set("hidden_size", options.hidden_size())
      .set("intermediate_size", shape.intermediate_size)
      .set("num_hidden_layers", options.num_hidden_layers())
      .set("num_attention_heads", shape.num_attention_heads)
      .set("num_key_value_heads", shape.num_key_value_heads)
      .set("head_dim", options.resolved_head_dim())
      .set("max_position_embeddings", options.max_position_embeddings())
      .set("rms_norm_eps", options.rms_norm_eps())
      .set("initializer_range", options.initializer_range())
      .set("tie_word_embeddings", options.tie_word_embeddings())
      .set("attention_bias", bias.q && bias.k && bias.v && bias.o)
      .set("mlp_bias", bias.gate && bias.up && bias.down)
      .set("rope_theta", options.rope().theta());
  set_rope_scaling(fields, options);
  set_special_tokens(fields, options);
  fields.set("torch_dtype", torch_dtype);
  set_options_beyond_llama(fields, options);
  return fields;
}

} // namespace rora
