#include "llama.h"

namespace rora::detail {
namespace {

class LlamaFamily : public ModelFamily {
 public:
  std::string model_type() const override {
    return "llama";
  }

  std::string architecture() const override {
    return "LlamaForCausalLM";
  }

  DecoderOptions read_config(const JsonObject& config) const override {
    if (config.has("sliding_window")) {
      config.fail("sliding_window", "is not supported");
    }
    return read_shared_config(*this, config);
  }

  JsonFields write_config(const DecoderOptions& options, const std::string& torch_dtype) const override {
    return write_shared_config(*this, options, torch_dtype);
  }
};

} // namespace

std::shared_ptr<const ModelFamily> llama_family() {
  return std::make_shared<LlamaFamily>();
}

} // namespace rora::detail
