#include <rora/error.h>

#include <cstdio>

namespace rora {

namespace {

// Paths and names come from outside and may hold line feeds or terminal controls.
std::string one_line(const std::string& text) {
  std::string line;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7F) {
      char escaped[8];
      std::snprintf(escaped, sizeof(escaped), "\\x%02x", static_cast<unsigned>(byte));
      line += escaped;
    } else {
      line += c;
    }
  }
  return line;
}

} // namespace

FileError::FileError(const std::filesystem::path& path, const std::string& what)
    : std::runtime_error(one_line(path.string() + ": " + what)) {}

FormatError::FormatError(const std::filesystem::path& path, const std::string& what)
    : std::runtime_error(one_line(path.string() + ": " + what)) {}

} // namespace rora
