#include "gemma3.h"

#include "families.h"
#include "sliding_layers.h"

#include <cmath>
#include <limits>

namespace rora::detail {
namespace {

constexpr const char* kFull = "full_attention";
constexpr const char* kSliding = "sliding_attention";
constexpr double kFullTheta = 1e6;
constexpr double kSlidingTheta = 1e4;

/// One kind of layer's object of `rope_parameters`, which transformers 5 nests.
RopeOptions read_nested_rope(const JsonObject& config, const char* layers, const char* theta_field, double theta) {
  theta = config.number(theta_field, theta);
  if (config.has("rope_parameters") && config.object("rope_parameters").has(layers)) {
    return read_rope(config.object("rope_parameters").object(layers), theta);
  }
  return RopeOptions().theta(theta);
}

void read_ropes(const JsonObject& config, DecoderOptions& options) {
  if (config.has("rope_parameters")) {
    const JsonObject ropes = config.object("rope_parameters");
    for (const std::string& field : ropes.names()) {
      if (field != kFull && field != kSliding) {
        ropes.fail(field, std::string("is not supported: the fields are ") + kFull + " and " + kSliding);
      }
    }
  }
  options.rope(read_nested_rope(config, kFull, "rope_theta", kFullTheta));
  options.sliding_rope(read_nested_rope(config, kSliding, "rope_local_base_freq", kSlidingTheta));
  if (!config.is_off("rope_scaling")) { // transformers 4: of full attention alone
    options.rope(read_rope(config.object("rope_scaling"), options.rope().theta()));
  }
}

/// Layers slide but for every sixth, where config.json does not say which do.
void read_windows(const JsonObject& config, DecoderOptions& options) {
  const int64_t pattern = config.integer("sliding_window_pattern", 6);
  if (pattern <= 0) {
    config.fail("sliding_window_pattern", "must be positive, not " + std::to_string(pattern));
  }
  read_sliding_layers(
      config, options, read_sliding_window(config, 4096), "sliding_window is null",
      [pattern](int64_t layer) { return (layer + 1) % pattern != 0; });
}

/// q·k are divided by its root. Up to that size the multiplier gives it again.
int64_t read_query_scalar(const JsonObject& config) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  const int64_t scalar = config.integer("query_pre_attn_scalar", 256);
  if (scalar <= 0 || scalar > kMost) {
    config.fail("query_pre_attn_scalar", "must be from 1 to 2147483647, not " + std::to_string(scalar));
  }
  return scalar;
}

class Gemma3TextFamily : public ModelFamily {
 public:
  std::string model_type() const override {
    return "gemma3_text";
  }

  std::string architecture() const override {
    return "Gemma3ForCausalLM";
  }

  DecoderOptions absent_fields() const override {
    return DecoderOptions()
        .num_key_value_heads(4)
        .head_dim(256)
        .max_position_embeddings(131072)
        .tie_word_embeddings(true)
        .bos_token_id(2)
        .eos_token_id({1});
  }

  DecoderOptions read_config(const JsonObject& config) const override {
    refuse_fields(
        config, {"mlp_bias", "use_bidirectional_attention", "final_logit_softcapping", "attn_logit_softcapping"});
    const double query_scalar = static_cast<double>(read_query_scalar(config));
    DecoderOptions options = read_config_without_rope(*this, config)
                                 .hidden_act(read_activation(config, "hidden_activation", "gelu_pytorch_tanh"))
                                 .norm_placement(NormPlacement::kBeforeAndAfter)
                                 .norm_adds_one(true)
                                 .qk_norm(true)
                                 .attention_multiplier(1.0 / std::sqrt(query_scalar))
                                 .embedding_multiplier_rounds(true);
    options.embedding_multiplier(std::sqrt(static_cast<double>(options.hidden_size())));
    read_ropes(config, options);
    read_windows(config, options);
    return options;
  }

  /// In the spelling of transformers 4, which both read.
  JsonFields write_config(const DecoderOptions& options, const std::string& torch_dtype) const override {
    JsonFields fields = write_shared_config(*this, options, torch_dtype);
    for (const char* field : {"hidden_act", "mlp_bias", "embedding_multiplier", "attention_multiplier"}) {
      fields.remove(field);
    }
    const double multiplier = attention_multiplier(options);
    fields.set("hidden_activation", options.hidden_act() == Activation::kSiLU ? "silu" : "gelu_pytorch_tanh")
        .set("query_pre_attn_scalar", static_cast<int64_t>(std::llround(1.0 / (multiplier * multiplier))))
        .set("rope_local_base_freq", options.sliding_rope().value_or(options.rope()).theta())
        .set("layer_types", layer_type_names(options));
    if (options.sliding_window() == 0) {
      fields.set("sliding_window", nullptr); // absent it would be 4096
    }
    return fields;
  }
};

} // namespace

std::shared_ptr<const ModelFamily> gemma3_text_family() {
  return std::make_shared<Gemma3TextFamily>();
}

} // namespace rora::detail
