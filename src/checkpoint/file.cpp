#include <rora/checkpoint/file.h>

#include <rora/error.h>

#include "checkpoint/atomic_file.h"
#include "checkpoint/other_forms.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <limits>
#include <regex>
#include <system_error>

namespace rora {

namespace {

constexpr size_t kFirstRead = size_t{1} << 16;
constexpr int kWriterSeconds = 10;

struct Descriptor {
  int value;

  explicit Descriptor(int opened) : value(opened) {}
  ~Descriptor() {
    close(value);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
};

Descriptor open_to_read(const std::filesystem::path& path, int flags) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | flags);
  if (descriptor < 0) {
    throw FileError(path, "cannot open: " + detail::system_message(errno));
  }
  return Descriptor(descriptor);
}

struct stat status_of(const std::filesystem::path& path, const Descriptor& file) {
  struct stat status {};
  if (fstat(file.value, &status) != 0) {
    throw FileError(path, "cannot read: " + detail::system_message(errno));
  }
  if (S_ISDIR(status.st_mode)) {
    throw FileError(path, "cannot read: " + detail::system_message(EISDIR));
  }
  return status;
}

/// Reads to the end, or to the first read that goes beyond `limit`.
std::string read_all(const std::filesystem::path& path, const Descriptor& file, size_t size_hint, size_t limit) {
  std::string content(size_hint, '\0');
  size_t size = 0;
  while (size <= limit) {
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

/// Waits until somebody writes to a pipe that was opened without blocking, and gives what was read meanwhile. Throws
/// where nobody opens it to write: a writer may take its time, but must be there.
std::string wait_for_writer(const std::filesystem::path& path, const Descriptor& file) {
  std::string read_meanwhile;
  for (int tenths = 0; tenths < kWriterSeconds * 10; ++tenths) {
    pollfd look{file.value, POLLIN, 0};
    if (poll(&look, 1, /*milliseconds=*/100) != 0) {
      break; // content, or a writer that came and went
    }
    char byte = 0;
    const ssize_t count = read(file.value, &byte, 1);
    if (count != 0) { // without a writer it is 0
      read_meanwhile.append(&byte, count > 0 ? 1 : 0);
      break;
    }
    if (tenths + 1 == kWriterSeconds * 10) {
      throw FileError(path, "is a pipe that nobody writes to");
    }
  }
  fcntl(file.value, F_SETFL, 0); // blocking from here on
  return read_meanwhile;
}

std::string read_regular(const std::filesystem::path& path, const Descriptor& file, const struct stat& status) {
  // The size is a hint only: files under /proc have none.
  const size_t hint = status.st_size > 0 ? static_cast<size_t>(status.st_size) + 1 : kFirstRead;
  std::string content = read_all(path, file, hint, std::numeric_limits<size_t>::max());
  if (detail::is_lfs_pointer(content)) {
    throw FormatError(path, detail::kLfsPointer);
  }
  return content;
}

} // namespace

std::string read_file(const std::filesystem::path& path) {
  // O_NONBLOCK: a named pipe is refused below instead of waiting for a writer.
  const Descriptor file = open_to_read(path, O_NONBLOCK);
  const struct stat status = status_of(path, file);
  if (!S_ISREG(status.st_mode)) {
    throw FileError(path, "is not a regular file");
  }
  return read_regular(path, file, status);
}

std::string read_file_or_pipe(const std::filesystem::path& path, int64_t max_pipe_bytes) {
  const Descriptor file = open_to_read(path, O_NONBLOCK);
  const struct stat status = status_of(path, file);
  if (S_ISREG(status.st_mode)) {
    return read_regular(path, file, status);
  }
  if (!S_ISFIFO(status.st_mode)) {
    throw FileError(path, "is neither a file nor a pipe");
  }
  const auto limit = static_cast<size_t>(max_pipe_bytes);
  std::string content = wait_for_writer(path, file);
  content += read_all(path, file, kFirstRead, limit);
  if (content.size() > limit) {
    throw FileError(path, "is a pipe that gives more than " + std::to_string(limit) + " bytes");
  }
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
