#include "../checkpoint/json_object.h"

#include <rora/checkpoint/file.h>
#include <rora/model/generation.h>

namespace rora {

std::vector<int64_t> read_stop_token_ids(const std::filesystem::path& folder) {
  for (const char* name : {"generation_config.json", "config.json"}) {
    const std::filesystem::path path = folder / name;
    if (std::filesystem::exists(path)) {
      const auto ids = detail::JsonObject::parse(path, read_file(path)).integers("eos_token_id");
      if (!ids.empty()) {
        return ids;
      }
    }
  }
  return {};
}

} // namespace rora
