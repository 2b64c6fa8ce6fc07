#include "checkpoint/json.h"

#include <rora/checkpoint/file.h>
#include <rora/error.h>

#include "checkpoint/quote.h"

#include <set>
#include <vector>

namespace rora::detail {

namespace {

constexpr int kMaxDepth = 64;

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
  using json = nlohmann::ordered_json;
  // The parser takes a zero byte for the end and would ignore what follows.
  if (const size_t zero = text.find('\0'); zero != std::string_view::npos) {
    throw FormatError(path, "not valid JSON: zero byte at offset " + std::to_string(zero));
  }
  std::vector<std::set<std::string>> keys;
  auto check = [&](int depth, json::parse_event_t event, json& parsed) {
    switch (event) {
      case json::parse_event_t::object_start:
      case json::parse_event_t::array_start:
        if (depth >= kMaxDepth) {
          throw FormatError(path, "JSON is nested deeper than " + std::to_string(kMaxDepth) + " levels");
        }
        if (event == json::parse_event_t::object_start) {
          keys.emplace_back();
        }
        break;
      case json::parse_event_t::object_end:
        keys.pop_back();
        break;
      case json::parse_event_t::key:
        if (!keys.back().insert(parsed.get_ref<const std::string&>()).second) {
          throw FormatError(path, "JSON key " + quote(parsed.get_ref<const std::string&>()) + " is given twice");
        }
        break;
      default:
        break;
    }
    return true;
  };
  try {
    return json::parse(text, check);
  } catch (const nlohmann::json::exception& error) {
    throw FormatError(path, "not valid JSON: " + json_reason(error));
  }
}

nlohmann::ordered_json read_json(const std::filesystem::path& path) {
  return parse_json(path, read_file(path));
}

} // namespace rora::detail
