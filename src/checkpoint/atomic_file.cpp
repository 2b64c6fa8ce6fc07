#include "checkpoint/atomic_file.h"

#include <rora/error.h>

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <system_error>

namespace rora::detail {

namespace {

std::filesystem::path folder_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

} // namespace

std::string system_message(int error) {
  return std::generic_category().message(error);
}

AtomicFile::AtomicFile(const std::filesystem::path& path) : path_(path) {
  static std::atomic<unsigned> counter{0};
  // Not mkstemp, whose mode 0600 would stay on the final file: 0666 lets the umask decide, as for any new file.
  do {
    const std::string name =
        "." + path_.filename().string() + "." + std::to_string(getpid()) + "-" + std::to_string(counter++) + ".tmp";
    temporary_ = folder_of(path_) / name;
    descriptor_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  } while (descriptor_ < 0 && (errno == EEXIST || errno == EINTR));
  if (descriptor_ < 0) {
    throw FileError(path_, "cannot create a temporary file beside it: " + system_message(errno));
  }
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) {
    close(descriptor_);
  }
  if (!temporary_.empty()) {
    unlink(temporary_.c_str());
  }
}

void AtomicFile::write(const void* data, size_t size) {
  const char* next = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t written = ::write(descriptor_, next, size);
    if (written < 0) {
      if (errno == EINTR) {
        continue;
      }
      throw FileError(path_, "cannot write: " + system_message(errno));
    }
    next += written;
    size -= static_cast<size_t>(written);
  }
}

void AtomicFile::flush() {
  if (descriptor_ < 0) {
    return;
  }
  if (fsync(descriptor_) != 0) {
    throw FileError(path_, "cannot write to disk: " + system_message(errno));
  }
  const int descriptor = descriptor_;
  descriptor_ = -1;
  // Some network file systems report a full disk only here.
  if (close(descriptor) != 0) {
    throw FileError(path_, "cannot close: " + system_message(errno));
  }
}

void AtomicFile::commit() {
  flush();
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) {
    throw FileError(path_, "cannot rename the temporary file to it: " + system_message(errno));
  }
  temporary_.clear();
  sync_folder(folder_of(path_));
}

void sync_folder(const std::filesystem::path& folder) {
  const int descriptor = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) {
    throw FileError(folder, "cannot open the folder: " + system_message(errno));
  }
  const int error = fsync(descriptor) == 0 ? 0 : errno;
  close(descriptor);
  // EINVAL: a file system that has no such call for folders.
  if (error != 0 && error != EINVAL) {
    throw FileError(folder, "cannot write the folder to disk: " + system_message(error));
  }
}

void replace_folder(const std::filesystem::path& from, const std::filesystem::path& to) {
  std::error_code error;
  const bool exchanged = std::filesystem::exists(to, error) &&
      renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) == 0;
  if (!exchanged) { // nothing is there, or the file system cannot exchange: then there is a moment without either
    std::filesystem::remove_all(to, error);
    if (error || std::rename(from.c_str(), to.c_str()) != 0) {
      throw FileError(to, "cannot take its place: " + (error ? error.message() : system_message(errno)));
    }
  }
  sync_folder(folder_of(to));
  if (exchanged) {
    std::filesystem::remove_all(from, error);
    if (error) {
      throw FileError(from, "cannot be removed: " + error.message());
    }
  }
}

} // namespace rora::detail
