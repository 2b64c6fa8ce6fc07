#pragma once

#include "support/test_data.h"

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

namespace rora::testing {

/// A file of this content, removed with the object.
class DataFile {
 public:
  explicit DataFile(std::string_view content, std::string_view name = "data.json") : path_(folder_ / name) {
    std::ofstream(path_, std::ios::binary) << content;
  }
  const std::filesystem::path& path() const {
    return path_;
  }
  /// The message of the `Error` that `function` throws, without "PATH: "; another end is a failure of the test.
  template <typename Error, typename Function>
  std::string message_of(Function function) const {
    try {
      function();
    } catch (const Error& error) {
      const std::string message = error.what();
      const std::string prefix = path_.string() + ": ";
      return message.rfind(prefix, 0) == 0 ? message.substr(prefix.size()) : "does not name the file: " + message;
    }
    return "nothing thrown";
  }

 private:
  TemporaryFolder folder_;
  std::filesystem::path path_;
};

} // namespace rora::testing
