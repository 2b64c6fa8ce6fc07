#pragma once

#include <nlohmann/json.hpp>

#include <filesystem>
#include <string>
#include <string_view>

namespace rora::detail {

/// Parses `text`, the content of `path`, keeping the order of keys. Throws `FormatError` for what is not JSON, for a
/// key that an object holds twice and for nesting deeper than 64, which no file that we read needs.
nlohmann::ordered_json parse_json(const std::filesystem::path& path, std::string_view text);

/// `parse_json` of the file's content. Throws `FileError` too.
nlohmann::ordered_json read_json(const std::filesystem::path& path);

/// What the parser says, without its tags and cut to a line's length.
std::string json_reason(const nlohmann::json::exception& error);

} // namespace rora::detail
