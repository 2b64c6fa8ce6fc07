#include "text/utf8.h"

#include "utf8_sequence.h"

#include <cstdint>

namespace rora::detail {

namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

} // namespace

std::string to_valid_utf8(std::string_view text) {
  std::string valid;
  valid.reserve(text.size());
  for (size_t offset = 0; offset < text.size();) {
    const Utf8Sequence sequence = utf8_sequence(text, offset);
    valid += sequence.well_formed ? text.substr(offset, sequence.length) : kReplacement;
    offset += sequence.length;
  }
  return valid;
}

size_t character_length(std::string_view text, size_t offset) {
  const auto lead = static_cast<unsigned char>(text[offset]);
  return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

char32_t code_point_at(std::string_view text, size_t offset) {
  const size_t length = character_length(text, offset);
  const auto lead = static_cast<unsigned char>(text[offset]);
  char32_t code_point = length == 1 ? lead : lead & (0x7F >> length);
  for (size_t index = 1; index < length; ++index) {
    code_point = code_point << 6 | (static_cast<unsigned char>(text[offset + index]) & 0x3F);
  }
  return code_point;
}

std::string to_utf8(char32_t code_point) {
  if (code_point < 0x80) {
    return {static_cast<char>(code_point)};
  }
  if (code_point < 0x800) {
    return {static_cast<char>(0xC0 | code_point >> 6), static_cast<char>(0x80 | (code_point & 0x3F))};
  }
  if (code_point < 0x10000) {
    return {
        static_cast<char>(0xE0 | code_point >> 12), static_cast<char>(0x80 | (code_point >> 6 & 0x3F)),
        static_cast<char>(0x80 | (code_point & 0x3F))};
  }
  return {
      static_cast<char>(0xF0 | code_point >> 18), static_cast<char>(0x80 | (code_point >> 12 & 0x3F)),
      static_cast<char>(0x80 | (code_point >> 6 & 0x3F)), static_cast<char>(0x80 | (code_point & 0x3F))};
}

bool is_white_space(char32_t code_point) {
  return (code_point >= 0x09 && code_point <= 0x0D) || code_point == 0x20 || code_point == 0x85 || code_point == 0xA0 ||
      code_point == 0x1680 || (code_point >= 0x2000 && code_point <= 0x200A) || code_point == 0x2028 ||
      code_point == 0x2029 || code_point == 0x202F || code_point == 0x205F || code_point == 0x3000;
}

size_t leading_white_space(std::string_view text) {
  size_t offset = 0;
  while (offset < text.size() && is_white_space(code_point_at(text, offset))) {
    offset += character_length(text, offset);
  }
  return offset;
}

size_t trailing_white_space(std::string_view text) {
  size_t begin = text.size();
  while (begin > 0) {
    size_t previous = begin - 1;
    while ((static_cast<unsigned char>(text[previous]) & 0xC0) == 0x80) {
      --previous;
    }
    if (!is_white_space(code_point_at(text, previous))) {
      break;
    }
    begin = previous;
  }
  return begin;
}

} // namespace rora::detail
