#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

namespace rora::detail {

/// A temporary file beside `path` that takes its place on `commit`. Until then `path` is untouched, and destruction
/// removes the temporary file. Every failure throws `FileError` naming `path`.
class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, size_t size);
  void write(std::string_view text) {
    write(text.data(), text.size());
  }
  /// Brings the content to the disk and closes the temporary file, so that only the rename is left to do.
  void flush();
  /// Flushes, renames and syncs the folder.
  void commit();

  const std::filesystem::path& path() const {
    return path_;
  }

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;
};

/// Brings renames and removals in `folder` to the disk. Throws `FileError`.
void sync_folder(const std::filesystem::path& folder);

/// Gives the folder `from` the place of `to`, and removes what was there; whenever the process ends, a whole folder is
/// there. What is in `from` must be on the disk already. Throws `FileError`.
void replace_folder(const std::filesystem::path& from, const std::filesystem::path& to);

/// The system's words for an `errno` value.
std::string system_message(int error);

} // namespace rora::detail
