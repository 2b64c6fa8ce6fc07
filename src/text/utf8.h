#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace rora::detail {

/// `text` with every ill-formed part replaced by U+FFFD: one for each maximal subpart of an ill-formed sequence, as the
/// Unicode standard recommends (section 3.9) and Python's `errors="replace"` does.
std::string to_valid_utf8(std::string_view text);

/// The bytes of the character that begins at `offset` of well-formed `text`.
size_t character_length(std::string_view text, size_t offset);

/// The code point that begins at `offset` of well-formed `text`.
char32_t code_point_at(std::string_view text, size_t offset);

/// The UTF-8 bytes of a code point.
std::string to_utf8(char32_t code_point);

/// Whether a code point has Unicode's property White_Space.
bool is_white_space(char32_t code_point);

/// The length of the white space that `text` begins with, and the offset where that at its end begins.
size_t leading_white_space(std::string_view text);
size_t trailing_white_space(std::string_view text);

} // namespace rora::detail
