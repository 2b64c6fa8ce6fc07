#pragma once

#include <filesystem>
#include <memory>

namespace rora {

/// Keeps other processes from writing to a folder while it lives, or any lock of the same folder in this process. It
/// leaves no file behind, and the end of the process, however it comes, ends it too.
class FolderLock {
 public:
  /// Throws `FileError` for a folder that another process holds or that cannot be opened. Warns where the file system
  /// has no locks for folders, as some network file systems: nothing is kept then.
  explicit FolderLock(const std::filesystem::path& folder);

 private:
  struct Held;
  std::shared_ptr<Held> held_;
};

} // namespace rora
