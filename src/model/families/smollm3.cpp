#include "smollm3.h"

#include "sliding_layers.h"

namespace rora::detail {
namespace {

/// 1 for a layer with rotary positions and 0 for one without. The list may go on behind the last layer.
std::vector<int64_t> read_no_rope_layers(const JsonObject& config, int64_t layers) {
  std::vector<int64_t> rotates;
  if (config.has("no_rope_layers")) {
    rotates = config.integers("no_rope_layers");
    if (static_cast<int64_t>(rotates.size()) < layers) {
      config.fail("no_rope_layers", "must name each of the " + std::to_string(layers) + " layers");
    }
    rotates.resize(static_cast<size_t>(layers));
    return rotates;
  }
  const int64_t interval = config.integer("no_rope_layer_interval", 4);
  if (interval <= 0) {
    config.fail("no_rope_layer_interval", "must be positive, not " + std::to_string(interval));
  }
  for (int64_t layer = 1; layer <= layers; ++layer) {
    rotates.push_back(layer % interval == 0 ? 0 : 1);
  }
  return rotates;
}

class SmolLM3Family : public ModelFamily {
 public:
  std::string model_type() const override {
    return "smollm3";
  }

  std::string architecture() const override {
    return "SmolLM3ForCausalLM";
  }

  DecoderOptions absent_fields() const override {
    return DecoderOptions()
        .num_key_value_heads(4)
        .max_position_embeddings(32768)
        .tie_word_embeddings(true)
        .rope(RopeOptions().theta(2e6))
        .bos_token_id(128000)
        .eos_token_id({128001});
  }

  DecoderOptions read_config(const JsonObject& config) const override {
    DecoderOptions options = read_shared_config(*this, config);
    options.no_rope_layers(read_no_rope_layers(config, options.num_hidden_layers()));
    const DecoderOptions rotating = options;
    read_sliding_layers(config, options, 0, [&](int64_t layer) { return !rotating.rotates(layer); });
    return options;
  }

  JsonFields write_config(const DecoderOptions& options, const std::string& torch_dtype) const override {
    JsonFields fields = write_shared_config(*this, options, torch_dtype);
    if (options.no_rope_layers().empty()) { // absent it would be every fourth
      fields.set("no_rope_layers", std::vector<int64_t>(static_cast<size_t>(options.num_hidden_layers()), 1));
    }
    write_sliding_layers(fields, options);
    fields.set("pad_token_id", nullptr); // absent it would be one that only SmolLM3's own vocabulary has
    return fields;
  }
};

} // namespace

std::shared_ptr<const ModelFamily> smollm3_family() {
  return std::make_shared<SmolLM3Family>();
}

} // namespace rora::detail
