#include "checkpoint/mapped_file.h"

#include <rora/checkpoint/mapped_files.h>
#include <rora/error.h>

#include "checkpoint/atomic_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <mutex>

namespace rora {
namespace detail {

/// Where a file is mapped. A place that was left is taken again and never freed: a signal's handler may look at it at
/// any time. The handler reads what is atomic, and a path only while its file is mapped.
struct MappedPlace {
  std::atomic<const char*> begin = nullptr; // null: nothing is mapped here
  std::atomic<const char*> end = nullptr;
  std::atomic<const char*> path = nullptr;
  struct stat status {};
  MappedPlace* next = nullptr;
};

namespace {

constinit std::atomic<MappedPlace*> first_place = nullptr;
constinit std::mutex places_mutex; // of those who take and leave places

MappedPlace* take_place(const MappedFile& file, const struct stat& status) {
  const std::lock_guard<std::mutex> lock(places_mutex);
  MappedPlace* place = first_place;
  while (place != nullptr && place->begin != nullptr) {
    place = place->next;
  }
  if (place == nullptr) {
    place = new MappedPlace;
    place->next = first_place;
    first_place = place;
  }
  place->status = status;
  place->path = file.path().c_str();
  place->end = file.data() + file.size();
  place->begin = file.data();
  return place;
}

void leave_place(MappedPlace& place) {
  const std::lock_guard<std::mutex> lock(places_mutex);
  place.begin = nullptr;
}

/// Whether two looks at a file found the same content, as far as its size and the time of the last write tell.
bool same_content(const struct stat& a, const struct stat& b) {
  return a.st_size == b.st_size && a.st_mtim.tv_sec == b.st_mtim.tv_sec && a.st_mtim.tv_nsec == b.st_mtim.tv_nsec;
}

} // namespace

MappedFile::MappedFile(const std::filesystem::path& path, bool mapped) : path_(path) {
  // O_NONBLOCK: a named pipe is refused below instead of waiting for a writer.
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) {
    throw FileError(path, "cannot open: " + system_message(errno));
  }
  try {
    take(descriptor, mapped);
  } catch (...) {
    unmap();
    close(descriptor);
    throw;
  }
  close(descriptor);
}

MappedFile::~MappedFile() {
  if (place_ != nullptr) {
    leave_place(*place_);
  }
  unmap();
}

void MappedFile::take(int descriptor, bool mapped) {
  struct stat status {};
  if (fstat(descriptor, &status) != 0) {
    throw FileError(path_, "cannot read its size: " + system_message(errno));
  }
  if (!S_ISREG(status.st_mode)) {
    throw FileError(path_, S_ISDIR(status.st_mode) ? "is a folder, expected a file" : "is not a regular file");
  }
  if (status.st_size == 0) {
    return; // nothing can be mapped of it
  }
  // Without MAP_NORESERVE a private writable mapping larger than memory is refused, though its pages stay the file's.
  const auto size = static_cast<size_t>(status.st_size);
  const int flags = MAP_PRIVATE | (mapped ? MAP_NORESERVE : MAP_ANONYMOUS);
  void* place = mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, mapped ? descriptor : -1, 0);
  if (place == MAP_FAILED) {
    throw FileError(path_, (mapped ? "cannot map into memory: " : "cannot be read: ") + system_message(errno));
  }
  data_ = static_cast<char*>(place);
  size_ = size;
  if (mapped) {
    place_ = take_place(*this, status);
  } else {
    read_all(descriptor, status);
  }
}

void MappedFile::read_all(int descriptor, const struct stat& status) {
  for (size_t done = 0; done < size_;) {
    const ssize_t count = read(descriptor, data_ + done, size_ - done);
    if (count < 0 && errno != EINTR) {
      throw FileError(path_, "cannot read: " + system_message(errno));
    }
    if (count == 0) {
      throw FileError(path_, "was cut off while it was read");
    }
    done += count > 0 ? static_cast<size_t>(count) : 0;
  }
  struct stat now {};
  if (fstat(descriptor, &now) != 0 || !same_content(now, status)) {
    throw FileError(path_, "was written to while it was read");
  }
}

void MappedFile::unmap() {
  if (data_ != nullptr) {
    munmap(data_, size_);
  }
}

} // namespace detail

const char* mapped_file_at(const void* address) noexcept {
  for (const detail::MappedPlace* place = detail::first_place; place != nullptr; place = place->next) {
    const char* const begin = place->begin;
    if (begin != nullptr && begin <= address && address < place->end.load()) {
      return place->path;
    }
  }
  return nullptr;
}

void check_mapped_files() {
  const std::lock_guard<std::mutex> lock(detail::places_mutex);
  for (const detail::MappedPlace* place = detail::first_place; place != nullptr; place = place->next) {
    struct stat now {};
    const bool same_file = place->begin != nullptr && stat(place->path, &now) == 0 &&
        now.st_dev == place->status.st_dev && now.st_ino == place->status.st_ino;
    if (same_file && !detail::same_content(now, place->status)) {
      throw FormatError(
          place->path.load(),
          "was written to while it was in use: the weights mapped from it are no longer those that "
          "were loaded");
    }
  }
}

} // namespace rora
