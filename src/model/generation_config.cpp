#include "families/families.h"

#include <rora/model/generation.h>

namespace rora {
namespace {

/// As in transformers, null is none, but an absent field is the family's default.
std::vector<int64_t> config_eos_token_id(const JsonObject& config) {
  if (config.contains("eos_token_id")) {
    return config.integers("eos_token_id");
  }
  const std::string type = config.string("model_type", DecoderOptions().model_type());
  const ModelFamily* family = detail::find_family(type);
  if (family == nullptr) {
    config.fail("model_type", detail::unsupported_model_type(type));
  }
  return family->absent_fields().eos_token_id();
}

} // namespace

std::vector<int64_t> read_stop_token_ids(const std::filesystem::path& folder) {
  std::vector<int64_t> ids;
  if (const auto path = folder / "generation_config.json"; std::filesystem::exists(path)) {
    ids = JsonObject::read(path).integers("eos_token_id");
  }
  if (const auto path = folder / "config.json"; ids.empty() && std::filesystem::exists(path)) {
    ids = config_eos_token_id(JsonObject::read(path));
  }
  return ids;
}

} // namespace rora
