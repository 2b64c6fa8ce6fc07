#pragma once

#include <cstddef>
#include <filesystem>

struct stat;

namespace rora::detail {

struct MappedPlace;

/// The whole content of a file in memory, private to this process: mapped, or read. `mapped_file_at` and
/// `check_mapped_files` know a mapped one while it is there.
class MappedFile {
 public:
  /// Throws `FileError` for what cannot be opened, is no regular file, or cannot be mapped or read.
  MappedFile(const std::filesystem::path& path, bool mapped);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::filesystem::path& path() const {
    return path_;
  }
  char* data() const {
    return data_;
  }
  size_t size() const {
    return size_;
  }

 private:
  void take(int descriptor, bool mapped);
  void read_all(int descriptor, const struct stat& status);
  void unmap();

  std::filesystem::path path_;
  char* data_ = nullptr;
  size_t size_ = 0;
  MappedPlace* place_ = nullptr;
};

} // namespace rora::detail
