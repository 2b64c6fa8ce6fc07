#include "text/byte_level.h"

#include "text/utf8.h"

#include <array>
#include <unordered_map>

namespace rora::detail {

namespace {

struct Alphabet {
  std::array<std::string, 256> characters;
  std::unordered_map<char32_t, char> bytes;
};

const Alphabet& alphabet() {
  static const Alphabet alphabet = [] {
    Alphabet made;
    char32_t next_unprintable = 0x100;
    for (char32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
      const char32_t code_point = printable ? byte : next_unprintable++;
      made.characters[byte] = to_utf8(code_point);
      made.bytes[code_point] = static_cast<char>(byte);
    }
    return made;
  }();
  return alphabet;
}

} // namespace

const std::string& byte_level_character(unsigned char byte) {
  return alphabet().characters[byte];
}

std::string to_byte_level(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size() * 2);
  for (const char byte : bytes) {
    text += byte_level_character(static_cast<unsigned char>(byte));
  }
  return text;
}

std::optional<std::string> from_byte_level(std::string_view text) {
  std::string bytes;
  bytes.reserve(text.size());
  for (size_t offset = 0; offset < text.size(); offset += character_length(text, offset)) {
    const auto byte = alphabet().bytes.find(code_point_at(text, offset));
    if (byte == alphabet().bytes.end()) {
      return std::nullopt;
    }
    bytes += byte->second;
  }
  return bytes;
}

} // namespace rora::detail
