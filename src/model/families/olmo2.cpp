#include "olmo2.h"

#include "families.h"

namespace rora::detail {
namespace {

class Olmo2Family : public ModelFamily {
 public:
  std::string model_type() const override {
    return "olmo2";
  }

  std::string architecture() const override {
    return "Olmo2ForCausalLM";
  }

  DecoderOptions absent_fields() const override {
    return DecoderOptions().rms_norm_eps(1e-5).eos_token_id({50279});
  }

  DecoderOptions read_config(const JsonObject& config) const override {
    refuse_fields(config, {"mlp_bias", "clip_qkv", "sliding_window", "layer_types"});
    return read_shared_config(*this, config)
        .norm_placement(NormPlacement::kAfter)
        .qk_norm(true)
        .qk_norm_of_all_heads(true);
  }

  JsonFields write_config(const DecoderOptions& options, const std::string& torch_dtype) const override {
    JsonFields fields = write_shared_config(*this, options, torch_dtype);
    fields.remove("mlp_bias");
    return fields;
  }
};

} // namespace

std::shared_ptr<const ModelFamily> olmo2_family() {
  return std::make_shared<Olmo2Family>();
}

} // namespace rora::detail
