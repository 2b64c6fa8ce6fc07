#include "granite.h"

#include "families.h"

namespace rora::detail {
namespace {

/// q·k are multiplied by it and by nothing else: absent, it is 1.
double read_attention_multiplier(const JsonObject& config) {
  const double multiplier = config.number("attention_multiplier", 1.0);
  if (multiplier <= 0.0) {
    config.fail("attention_multiplier", "must be positive, not " + config.text("attention_multiplier"));
  }
  return multiplier;
}

class GraniteFamily : public ModelFamily {
 public:
  std::string model_type() const override {
    return "granite";
  }

  std::string architecture() const override {
    return "GraniteForCausalLM";
  }

  DecoderOptions read_config(const JsonObject& config) const override {
    refuse_fields(config, {"sliding_window", "layer_types"});
    return read_shared_config(*this, config)
        .embedding_multiplier(config.number("embedding_multiplier", 1.0))
        .residual_multiplier(config.number("residual_multiplier", 1.0))
        .attention_multiplier(read_attention_multiplier(config))
        .logits_scaling(config.number("logits_scaling", 1.0));
  }

  JsonFields write_config(const DecoderOptions& options, const std::string& torch_dtype) const override {
    JsonFields fields = write_shared_config(*this, options, torch_dtype);
    fields.set("embedding_multiplier", options.embedding_multiplier())
        .set("residual_multiplier", options.residual_multiplier())
        .set("attention_multiplier", attention_multiplier(options))
        .set("logits_scaling", options.logits_scaling());
    return fields;
  }
};

} // namespace

std::shared_ptr<const ModelFamily> granite_family() {
  return std::make_shared<GraniteFamily>();
}

} // namespace rora::detail
