#pragma once

#include "checkpoint/quote.h"

#include <nlohmann/json.hpp>

#include <filesystem>
#include <string>
#include <string_view>
#include <type_traits>
#include <unordered_set>
#include <vector>

namespace rora::detail {

/// Parses `text` into nlohmann's `json` or `ordered_json`. Calls `refuse(what)`, which throws, for a zero byte, a key
/// that an object holds twice, and nesting deeper than 64, which no file that we read needs; what is no JSON is the
/// parser's own exception.
template <typename Json, typename Refuse>
Json parse_checked_json(std::string_view text, const Refuse& refuse) {
  constexpr int kMaxDepth = 64;
  // The parser takes a zero byte for the end and would ignore what follows.
  if (const size_t zero = text.find('\0'); zero != std::string_view::npos) {
    refuse("not valid JSON: zero byte at offset " + std::to_string(zero));
  }
  std::vector<std::unordered_set<std::string>> keys;
  auto check = [&](int depth, typename Json::parse_event_t event, Json& parsed) {
    switch (event) {
      case Json::parse_event_t::object_start:
      case Json::parse_event_t::array_start:
        if (depth >= kMaxDepth) {
          refuse("JSON is nested deeper than " + std::to_string(kMaxDepth) + " levels");
        }
        if (event == Json::parse_event_t::object_start) {
          keys.emplace_back();
        }
        break;
      case Json::parse_event_t::object_end:
        keys.pop_back();
        break;
      case Json::parse_event_t::key: {
        const auto& key = parsed.template get_ref<const std::string&>();
        if (!keys.back().insert(key).second) {
          refuse("JSON key " + quote(key) + " is given twice");
        }
        // It finds a key by going through all: objects of a hostile size would take hours.
        if (std::is_same_v<Json, nlohmann::ordered_json> && keys.back().size() > 10'000) {
          refuse("JSON object holds more than 10000 keys");
        }
        break;
      }
      default:
        break;
    }
    return true;
  };
  return Json::parse(text, check);
}

/// Parses `text`, the content of `path`, keeping the order of keys, of which an object may hold 10 000. Throws
/// `FormatError` for what `parse_checked_json` refuses and for what is not JSON.
nlohmann::ordered_json parse_json(const std::filesystem::path& path, std::string_view text);

/// The file's content, with its keys sorted instead, of which there may be any number. Throws `FileError` too.
nlohmann::json read_sorted_json(const std::filesystem::path& path);

/// What the parser says, without its tags and cut to a line's length.
std::string json_reason(const nlohmann::json::exception& error);

/// A value for a message: as JSON, and cut to a line's length.
template <typename Json>
std::string shown(const Json& value) {
  return shortened(value.dump(), 160);
}

} // namespace rora::detail
