#include <rora/checkpoint/file.h>

#include <rora/error.h>

#include "checkpoint/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <regex>
#include <system_error>

namespace rora {

namespace {

struct Descriptor {
  int value;
  ~Descriptor() {
    if (value >= 0) {
      close(value);
    }
  }
};

} // namespace

std::string read_file(const std::filesystem::path& path) {
  const Descriptor file{open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.value < 0) {
    throw FileError(path, "cannot open: " + detail::system_message(errno));
  }
  // The size is a hint only: pipes and files under /proc have none.
  struct stat status {};
  const bool sized = fstat(file.value, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0;
  std::string content(sized ? static_cast<size_t>(status.st_size) + 1 : size_t{1} << 16, '\0');
  size_t size = 0;
  while (true) {
    if (size == content.size()) {
      content.resize(2 * size);
    }
    const ssize_t count = read(file.value, content.data() + size, content.size() - size);
    if (count < 0) {
      if (errno == EINTR) {
        continue;
      }
      throw FileError(path, "cannot read: " + detail::system_message(errno));
    }
    if (count == 0) {
      break;
    }
    size += static_cast<size_t>(count);
  }
  content.resize(size);
  return content;
}

void write_file(const std::filesystem::path& path, std::string_view content) {
  detail::AtomicFile file(path);
  file.write(content);
  file.commit();
}

void remove_temporary_files(const std::filesystem::path& folder) {
  static const std::regex temporary(R"(\..*\.\d+-\d+\.tmp)"); // as AtomicFile names them
  std::error_code error;
  std::filesystem::directory_iterator next(folder, error);
  for (const std::filesystem::directory_iterator end; !error && next != end; next.increment(error)) {
    if (std::regex_match(next->path().filename().string(), temporary)) {
      std::filesystem::remove(next->path(), error);
    }
  }
  if (error) {
    throw FileError(folder, "cannot be cleared of temporary files: " + error.message());
  }
}

} // namespace rora
