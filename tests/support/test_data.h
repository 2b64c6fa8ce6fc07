#pragma once

#include <filesystem>
#include <string_view>

namespace rora::testing {

/// The path of a committed file below tests/fixtures.
std::filesystem::path test_data(std::string_view name);

/// A fresh, empty folder that is removed with the object.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const {
    return path_;
  }
  std::filesystem::path operator/(std::string_view name) const {
    return path_ / name;
  }

 private:
  std::filesystem::path path_;
};

} // namespace rora::testing
