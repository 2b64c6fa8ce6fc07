#pragma once

#include <filesystem>
#include <string_view>

namespace rora::detail {

/// Refuses a tokenizer.model, `content` of `path`, that is no whole message, and what sentencepiece would take on trust
/// and crash, hang or differ on: a charsmap, and pieces that are long, hold a zero byte or no UTF-8, or as user-defined
/// symbols begin alike too often. Throws `FormatError`.
void check_sentencepiece_model(const std::filesystem::path& path, std::string_view content);

} // namespace rora::detail
