#include <rora/checkpoint/folder_lock.h>

#include "checkpoint/atomic_file.h"

#include <rora/error.h>

#include <c10/util/Exception.h>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <map>
#include <mutex>
#include <utility>

namespace rora {

struct FolderLock::Held {
  explicit Held(int descriptor) : descriptor(descriptor) {}
  ~Held() {
    close(descriptor);
  }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;

  const int descriptor;
};

FolderLock::FolderLock(const std::filesystem::path& folder) {
  // Two descriptors of one process would keep each other out: it has one for each folder, by device and inode.
  static std::mutex mutex;
  static std::map<std::pair<dev_t, ino_t>, std::weak_ptr<Held>> all;
  const int descriptor = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) {
    throw FileError(folder, "cannot open the folder: " + detail::system_message(errno));
  }
  auto opened = std::make_shared<Held>(descriptor);
  struct stat status {};
  if (fstat(descriptor, &status) != 0) {
    throw FileError(folder, "cannot open the folder: " + detail::system_message(errno));
  }
  const std::lock_guard guard(mutex);
  auto& of_folder = all[{status.st_dev, status.st_ino}];
  held_ = of_folder.lock();
  if (held_ != nullptr) {
    return;
  }
  int result = 0;
  do {
    result = flock(descriptor, LOCK_EX | LOCK_NB);
  } while (result != 0 && errno == EINTR);
  if (result != 0 && errno == EWOULDBLOCK) {
    throw FileError(folder, "another process writes to it");
  }
  if (result != 0) {
    TORCH_WARN(
        folder.string(),
        ": cannot be locked, so a second run in it would not be noticed: ", detail::system_message(errno));
  }
  held_ = std::move(opened);
  of_folder = held_;
}

} // namespace rora
