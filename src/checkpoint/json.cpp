#include "checkpoint/json.h"

#include <rora/checkpoint/file.h>
#include <rora/error.h>

namespace rora::detail {

namespace {

template <typename Json>
Json parse(const std::filesystem::path& path, std::string_view text) {
  try {
    return parse_checked_json<Json>(text, [&](const std::string& what) { throw FormatError(path, what); });
  } catch (const nlohmann::json::exception& error) {
    throw FormatError(path, "not valid JSON: " + json_reason(error));
  }
}

} // namespace

std::string json_reason(const nlohmann::json::exception& error) {
  std::string_view reason = error.what();
  const size_t tag = reason.find("] ");
  if (reason.starts_with("[json.exception") && tag != std::string_view::npos) {
    reason.remove_prefix(tag + 2);
  }
  return shortened(reason, 240);
}

nlohmann::ordered_json parse_json(const std::filesystem::path& path, std::string_view text) {
  return parse<nlohmann::ordered_json>(path, text);
}

nlohmann::json read_sorted_json(const std::filesystem::path& path) {
  return parse<nlohmann::json>(path, read_file(path));
}

} // namespace rora::detail
