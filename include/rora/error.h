#pragma once

#include <filesystem>
#include <stdexcept>
#include <string>

namespace rora {

/// A file that cannot be opened, read, written or renamed.
class FileError : public std::runtime_error {
 public:
  /// The message reads "PATH: WHAT".
  FileError(const std::filesystem::path& path, const std::string& what);
};

/// A file that was read and whose content is not what its format asks for.
class FormatError : public std::runtime_error {
 public:
  /// The message reads "PATH: WHAT"; `what` names the field or tensor, what was expected and what was found.
  FormatError(const std::filesystem::path& path, const std::string& what);
};

} // namespace rora
