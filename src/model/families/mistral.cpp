#include "mistral.h"

#include "families.h"
#include "sliding_layers.h"

namespace rora::detail {
namespace {

class MistralFamily : public ModelFamily {
 public:
  std::string model_type() const override {
    return "mistral";
  }

  std::string architecture() const override {
    return "MistralForCausalLM";
  }

  DecoderOptions absent_fields() const override {
    return ModelFamily::absent_fields().num_key_value_heads(8).max_position_embeddings(131072);
  }

  DecoderOptions read_config(const JsonObject& config) const override {
    refuse_fields(config, {"attention_bias", "mlp_bias", "layer_types"});
    return read_shared_config(*this, config).sliding_window(read_sliding_window(config, 4096));
  }

  JsonFields write_config(const DecoderOptions& options, const std::string& torch_dtype) const override {
    JsonFields fields = write_shared_config(*this, options, torch_dtype);
    fields.remove("attention_bias").remove("mlp_bias");
    if (options.sliding_window() == 0) {
      fields.set("sliding_window", nullptr); // absent it would be 4096
    }
    return fields;
  }
};

} // namespace

std::shared_ptr<const ModelFamily> mistral_family() {
  return std::make_shared<MistralFamily>();
}

} // namespace rora::detail
