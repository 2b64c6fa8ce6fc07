#include "checkpoint/support.h"

#include <rora/error.h>

#include <c10/util/Exception.h>

#include <gtest/gtest.h>

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace rora::testing {

void write_raw(const std::filesystem::path& path, std::string_view bytes) {
  // A file cut short and written anew is brought to the disk by some file systems, which takes milliseconds.
  if (std::filesystem::is_regular_file(path)) {
    std::filesystem::remove(path);
  }
  std::ofstream(path, std::ios::binary) << bytes;
}

std::string read_raw(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  return std::string(std::istreambuf_iterator<char>(file), {});
}

std::string safetensors_bytes(std::string_view header, size_t data_bytes) {
  const uint64_t length = header.size();
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  return bytes.append(header).append(data_bytes, '\1');
}

std::vector<std::string> listing(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

namespace {

std::string text_of(const std::exception& error) {
  const auto* of_torch = dynamic_cast<const c10::Error*>(&error);
  return of_torch != nullptr ? of_torch->what_without_backtrace() : error.what();
}

} // namespace

template <class Error>
std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    const std::string message = text_of(error);
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    EXPECT_LT(message.size(), 1000u) << message.substr(0, 1000);
    return message;
  } catch (const std::exception& error) {
    ADD_FAILURE() << "another type: " << error.what();
    return "";
  }
  ADD_FAILURE() << "nothing thrown";
  return "";
}

template std::string message_of<FileError>(const std::function<void()>&);
template std::string message_of<FormatError>(const std::function<void()>&);
template std::string message_of<c10::ValueError>(const std::function<void()>&);

FileSizeLimit::FileSizeLimit(rlim_t bytes) : old_handler_(std::signal(SIGXFSZ, SIG_IGN)) {
  getrlimit(RLIMIT_FSIZE, &old_limit_);
  rlimit limit = old_limit_;
  limit.rlim_cur = bytes;
  if (setrlimit(RLIMIT_FSIZE, &limit) != 0) {
    throw std::runtime_error("cannot limit the size of files");
  }
}

FileSizeLimit::~FileSizeLimit() {
  setrlimit(RLIMIT_FSIZE, &old_limit_);
  std::signal(SIGXFSZ, old_handler_);
}

WithoutPrivileges::WithoutPrivileges() : root_(geteuid() == 0) {
  if (root_ && seteuid(65534) != 0) {
    throw std::runtime_error("cannot lay down root's rights");
  }
}

WithoutPrivileges::~WithoutPrivileges() {
  if (root_ && seteuid(0) != 0) {
    std::abort();
  }
}

} // namespace rora::testing
