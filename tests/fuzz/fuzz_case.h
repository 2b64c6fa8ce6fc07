#pragma once

#include <rora/error.h>

#include <c10/util/Exception.h>

#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace rora::fuzz {

/// Ends the process as a crash does, so that the input is kept.
[[noreturn]] inline void fail(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::abort();
}

inline std::string_view as_text(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

/// A message is one line of printable text, not too long, and names the file.
inline void check_message(std::string_view message, std::string_view file) {
  const bool one_line = message.find_first_of(std::string_view("\n\r\x1B\0", 4)) == std::string_view::npos;
  if (message.empty() || message.size() >= 4000 || !one_line || message.find(file) == std::string_view::npos) {
    fail("a bad message for " + std::string(file) + ": " + std::string(message.substr(0, 5000)));
  }
}

/// Runs what reads `file`: it returns, or refuses the file by an error of rora that names it.
template <typename Run>
void read_or_refuse(std::string_view file, Run run) {
  try {
    run();
  } catch (const FormatError& error) {
    check_message(error.what(), file);
  } catch (const FileError& error) {
    check_message(error.what(), file);
  } catch (const std::exception& error) {
    fail("another error for " + std::string(file) + ": " + error.what());
  }
}

/// A folder of this process, where each case writes its files anew: in memory where that can be, which is twenty times
/// as fast.
class Folder {
 public:
  Folder() {
    const bool in_memory = std::getenv("TMPDIR") == nullptr && access("/dev/shm", W_OK | X_OK) == 0;
    const std::filesystem::path parent = in_memory ? "/dev/shm" : std::filesystem::temp_directory_path();
    std::string pattern = (parent / "rora-fuzz-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) {
      fail("cannot make a temporary folder");
    }
    path_ = pattern;
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  const std::filesystem::path& path() const {
    return path_;
  }

  std::filesystem::path write(const std::string& name, std::string_view content) const {
    const std::filesystem::path file = path_ / name;
    std::ofstream(file, std::ios::binary) << content;
    return file;
  }

 private:
  std::filesystem::path path_;
};

} // namespace rora::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
