#pragma once

#include <cstddef>
#include <string_view>

namespace rora::detail {

/// A character of UTF-8, or the maximal part of a sequence that is none.
struct Utf8Sequence {
  size_t length;
  bool well_formed;
};

/// What stands at `offset`, by table 3-7 of the Unicode standard: no overlong forms, surrogates or code points past
/// U+10FFFF.
inline Utf8Sequence utf8_sequence(std::string_view text, size_t offset) {
  const auto byte = [&](size_t index) { return static_cast<unsigned char>(text[offset + index]); };
  const auto is_between = [](unsigned char each, unsigned char low, unsigned char high) {
    return each >= low && each <= high;
  };
  const unsigned char lead = byte(0);
  if (lead < 0x80) {
    return {1, true};
  }
  size_t length = 0;
  unsigned char low = 0x80;
  unsigned char high = 0xBF;
  if (is_between(lead, 0xC2, 0xDF)) {
    length = 2;
  } else if (is_between(lead, 0xE0, 0xEF)) {
    length = 3;
    low = lead == 0xE0 ? 0xA0 : 0x80;
    high = lead == 0xED ? 0x9F : 0xBF;
  } else if (is_between(lead, 0xF0, 0xF4)) {
    length = 4;
    low = lead == 0xF0 ? 0x90 : 0x80;
    high = lead == 0xF4 ? 0x8F : 0xBF;
  } else {
    return {1, false};
  }
  for (size_t index = 1; index < length; ++index) {
    if (offset + index >= text.size() || !is_between(byte(index), low, high)) {
      return {index, false};
    }
    low = 0x80;
    high = 0xBF;
  }
  return {length, true};
}

/// The offset of the first byte that is not well-formed, or npos.
inline size_t find_invalid_utf8(std::string_view text) {
  for (size_t offset = 0; offset < text.size();) {
    const Utf8Sequence sequence = utf8_sequence(text, offset);
    if (!sequence.well_formed) {
      return offset;
    }
    offset += sequence.length;
  }
  return std::string_view::npos;
}

} // namespace rora::detail
