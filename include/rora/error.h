#pragma once

#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>

namespace rora {

/// `text` for a message: on one line, with control characters and what is no UTF-8 as `\xHH`, and cut after 1900 bytes.
/// Paths and names come from outside.
std::string one_line(std::string_view text);

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

/// A loss, gradient, likelihood or logit that is NaN or infinite: the model's numbers overflow, as they do once steps
/// were too large.
class NotFiniteError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

} // namespace rora
