#pragma once

#include <sys/resource.h>

#include <csignal>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace rora::testing {

void write_raw(const std::filesystem::path& path, std::string_view bytes);
std::string read_raw(const std::filesystem::path& path);

/// The bytes of a safetensors file: the header's length, the header, and `data_bytes` bytes of data.
std::string safetensors_bytes(std::string_view header, size_t data_bytes);

/// The sorted names of everything in `folder`, hidden files too.
std::vector<std::string> listing(const std::filesystem::path& folder);

/// Runs `body` and returns the message of the `Error` that it throws; "" and a failed test if it throws none, another
/// type, or a message of more than one line.
template <class Error>
std::string message_of(const std::function<void()>& body);

/// Every write beyond `bytes` bytes of a file fails with EFBIG while this lives: a full disk that needs no privileges.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes);
  ~FileSizeLimit();
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit old_limit_{};
  void (*old_handler_)(int) = nullptr;
};

/// Root's rights over files are laid down while this lives, so that permissions count in tests run by root too.
class WithoutPrivileges {
 public:
  WithoutPrivileges();
  ~WithoutPrivileges();
  WithoutPrivileges(const WithoutPrivileges&) = delete;
  WithoutPrivileges& operator=(const WithoutPrivileges&) = delete;

 private:
  bool root_;
};

} // namespace rora::testing
