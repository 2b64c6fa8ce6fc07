#include "../checkpoint/json_object.h"
#include "special_tokens.h"

#include <rora/checkpoint/file.h>
#include <rora/model/generation.h>

namespace rora {

std::vector<int64_t> read_stop_token_ids(const std::filesystem::path& folder) {
  std::vector<int64_t> ids;
  if (const auto path = folder / "generation_config.json"; std::filesystem::exists(path)) {
    ids = detail::JsonObject::parse(path, read_file(path)).integers("eos_token_id");
  }
  if (const auto path = folder / "config.json"; ids.empty() && std::filesystem::exists(path)) {
    ids = detail::config_eos_token_id(detail::JsonObject::parse(path, read_file(path)));
  }
  return ids;
}

} // namespace rora
