#include "support/test_data.h"

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
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

} // namespace rora::testing
