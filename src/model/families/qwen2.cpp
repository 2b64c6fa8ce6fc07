#include "qwen2.h"

#include "families.h"
#include "sliding_layers.h"

namespace rora::detail {
namespace {

ProjectionBiases biases() {
  ProjectionBiases bias;
  bias.q = bias.k = bias.v = true;
  return bias;
}

class Qwen2Family : public ModelFamily {
 public:
  std::string model_type() const override {
    return "qwen2";
  }

  std::string architecture() const override {
    return "Qwen2ForCausalLM";
  }

  DecoderOptions absent_fields() const override {
    return DecoderOptions().num_key_value_heads(32).max_position_embeddings(32768);
  }

  /// Attention has its biases whatever `attention_bias` says, as in transformers, whose class has no such field.
  DecoderOptions read_config(const JsonObject& config) const override {
    refuse_fields(config, {"mlp_bias"});
    DecoderOptions options = read_shared_config(*this, config).bias(biases());
    read_qwen_windows(config, options);
    return options;
  }

  JsonFields write_config(const DecoderOptions& options, const std::string& torch_dtype) const override {
    JsonFields fields = write_shared_config(*this, options, torch_dtype);
    fields.remove("attention_bias").remove("mlp_bias");
    write_qwen_windows(fields, options);
    return fields;
  }
};

} // namespace

std::shared_ptr<const ModelFamily> qwen2_family() {
  return std::make_shared<Qwen2Family>();
}

void read_qwen_windows(const JsonObject& config, DecoderOptions& options) {
  const int64_t first = config.integer("max_window_layers", 28);
  read_sliding_layers(config, options, 4096, [first](int64_t layer) { return layer >= first; });
}

/// The readers before `layer_types` take the layers behind `max_window_layers`.
void write_qwen_windows(JsonFields& fields, const DecoderOptions& options) {
  write_sliding_layers(fields, options);
  int64_t full = 0;
  while (full < options.num_hidden_layers() && options.window(full) == 0) {
    ++full;
  }
  fields.set("max_window_layers", full);
}

} // namespace rora::detail
