#include "support/test_data.h"

#include <ftw.h>

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace rora::testing {

std::filesystem::path test_data(std::string_view name) {
  return std::filesystem::path(RORA_TEST_DATA) / name;
}

TemporaryFolder::TemporaryFolder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "rora-test-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) {
    throw std::runtime_error("cannot make a temporary folder like " + pattern);
  }
  path_ = pattern;
}

TemporaryFolder::~TemporaryFolder() {
  // LibTorch's wheel exports a std::filesystem of its own, found before the standard library's; its remove_all calls a
  // null pointer.
  const auto remove = [](const char* path, const struct stat*, int, struct FTW*) { return std::remove(path); };
  nftw(path_.c_str(), remove, 16, FTW_DEPTH | FTW_PHYS);
}

} // namespace rora::testing
