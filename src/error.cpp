#include <rora/error.h>

#include "utf8_sequence.h"

#include <cstdio>
#include <string_view>

namespace rora {

namespace {

// Room for what a message says itself; what it quotes is cut where it is quoted, but for what was overlooked.
constexpr size_t kMaxMessage = 1900;

} // namespace

std::string one_line(std::string_view text) {
  std::string line;
  for (size_t offset = 0; offset < text.size();) {
    if (line.size() > kMaxMessage) {
      return line + "...";
    }
    const auto byte = static_cast<unsigned char>(text[offset]);
    const detail::Utf8Sequence sequence = detail::utf8_sequence(text, offset);
    if (byte < 0x20 || byte == 0x7F || !sequence.well_formed) {
      char escaped[8];
      std::snprintf(escaped, sizeof(escaped), "\\x%02x", static_cast<unsigned>(byte));
      line += escaped;
      ++offset;
    } else {
      line += text.substr(offset, sequence.length);
      offset += sequence.length;
    }
  }
  return line;
}

FileError::FileError(const std::filesystem::path& path, const std::string& what)
    : std::runtime_error(one_line(path.string()) + ": " + one_line(what)) {}

FormatError::FormatError(const std::filesystem::path& path, const std::string& what)
    : std::runtime_error(one_line(path.string()) + ": " + one_line(what)) {}

} // namespace rora
