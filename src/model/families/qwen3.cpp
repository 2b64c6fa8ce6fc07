#include "qwen3.h"

#include "families.h"
#include "qwen2.h"

namespace rora::detail {
namespace {

class Qwen3Family : public ModelFamily {
 public:
  std::string model_type() const override {
    return "qwen3";
  }

  std::string architecture() const override {
    return "Qwen3ForCausalLM";
  }

  DecoderOptions absent_fields() const override {
    return DecoderOptions().num_key_value_heads(32).head_dim(128).max_position_embeddings(32768);
  }

  DecoderOptions read_config(const JsonObject& config) const override {
    refuse_fields(config, {"mlp_bias"});
    DecoderOptions options = read_shared_config(*this, config).qk_norm(true);
    read_qwen_windows(config, options);
    return options;
  }

  JsonFields write_config(const DecoderOptions& options, const std::string& torch_dtype) const override {
    JsonFields fields = write_shared_config(*this, options, torch_dtype);
    fields.remove("mlp_bias");
    write_qwen_windows(fields, options);
    return fields;
  }
};

} // namespace

std::shared_ptr<const ModelFamily> qwen3_family() {
  return std::make_shared<Qwen3Family>();
}

} // namespace rora::detail
