#include <rora/checkpoint/safetensors.h>

#include <rora/error.h>

#include "checkpoint/atomic_file.h"
#include "checkpoint/quote.h"
#include "checkpoint/safetensors_header.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <unordered_map>

namespace rora {

static_assert(std::endian::native == std::endian::little, "safetensors data is little-endian");

struct SafetensorsFile::Mapping {
  explicit Mapping(const std::filesystem::path& path);
  ~Mapping() {
    unmap();
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  const detail::TensorEntry& entry(const std::string& name) const;

  std::filesystem::path path;
  char* base = nullptr;
  size_t size = 0;
  char* data = nullptr;
  std::vector<detail::TensorEntry> entries;
  std::vector<std::string> names;
  std::unordered_map<std::string, size_t> index;
  std::map<std::string, std::string> metadata;

 private:
  void map_file();
  void read_header();
  void unmap() {
    if (base != nullptr) {
      munmap(base, size);
    }
  }
};

SafetensorsFile::Mapping::Mapping(const std::filesystem::path& path) : path(path) {
  map_file();
  try {
    read_header();
  } catch (...) {
    unmap();
    throw;
  }
}

void SafetensorsFile::Mapping::map_file() {
  // O_NONBLOCK: a named pipe is refused below instead of waiting for a writer.
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) {
    throw FileError(path, "cannot open: " + detail::system_message(errno));
  }
  struct stat status {};
  const int stat_error = fstat(descriptor, &status) == 0 ? 0 : errno;
  if (stat_error != 0 || !S_ISREG(status.st_mode) || status.st_size < 8) {
    close(descriptor);
    if (stat_error != 0) {
      throw FileError(path, "cannot read its size: " + detail::system_message(stat_error));
    }
    if (!S_ISREG(status.st_mode)) {
      throw FileError(path, S_ISDIR(status.st_mode) ? "is a folder, expected a file" : "is not a regular file");
    }
    throw FormatError(
        path, "expected at least the 8 bytes of the header length, found " + std::to_string(status.st_size));
  }
  size = static_cast<size_t>(status.st_size);
  // Without MAP_NORESERVE a private writable mapping larger than memory is refused, though its pages stay the file's.
  void* mapped = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, descriptor, 0);
  const int map_error = errno;
  close(descriptor);
  if (mapped == MAP_FAILED) {
    throw FileError(path, "cannot map into memory: " + detail::system_message(map_error));
  }
  base = static_cast<char*>(mapped);
}

void SafetensorsFile::Mapping::read_header() {
  uint64_t length = 0;
  std::memcpy(&length, base, sizeof(length));
  if (length > detail::kMaxHeaderBytes) {
    throw FormatError(
        path,
        "header length " + std::to_string(length) + " is over the format's limit of " +
            std::to_string(detail::kMaxHeaderBytes));
  }
  if (length > size - 8) {
    throw FormatError(
        path,
        "header length " + std::to_string(length) + " is over the " + std::to_string(size - 8) +
            " bytes that follow it");
  }
  data = base + 8 + length;
  auto header = detail::parse_safetensors_header(path, std::string_view(base + 8, length), size - 8 - length);
  entries = std::move(header.tensors);
  metadata = std::move(header.metadata);
  names.reserve(entries.size());
  for (const auto& entry : entries) {
    index.emplace(entry.name, names.size());
    names.push_back(entry.name);
  }
}

const detail::TensorEntry& SafetensorsFile::Mapping::entry(const std::string& name) const {
  const auto found = index.find(name);
  if (found == index.end()) {
    throw FormatError(path, "holds no tensor " + detail::quote(name));
  }
  return entries[found->second];
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : mapping_(std::make_shared<Mapping>(path)) {}

const std::filesystem::path& SafetensorsFile::path() const {
  return mapping_->path;
}

const std::vector<std::string>& SafetensorsFile::names() const {
  return mapping_->names;
}

bool SafetensorsFile::contains(const std::string& name) const {
  return mapping_->index.contains(name);
}

std::vector<int64_t> SafetensorsFile::shape(const std::string& name) const {
  return mapping_->entry(name).shape;
}

at::ScalarType SafetensorsFile::dtype(const std::string& name) const {
  return mapping_->entry(name).dtype;
}

at::Tensor SafetensorsFile::tensor(const std::string& name) const {
  const detail::TensorEntry& entry = mapping_->entry(name);
  char* begin = mapping_->data + entry.begin;
  const size_t bytes = entry.end - entry.begin;
  if (entry.dtype == at::kBool && std::any_of(begin, begin + bytes, [](char c) { return c != 0 && c != 1; })) {
    throw FormatError(path(), "tensor " + detail::quote(name) + ": a BOOL is neither 0 nor 1");
  }
  const auto options = at::TensorOptions().dtype(entry.dtype);
  const bool misaligned = reinterpret_cast<uintptr_t>(begin) % c10::elementSize(entry.dtype) != 0;
  if (bytes == 0 || misaligned) {
    at::Tensor copy = at::empty(entry.shape, options);
    if (bytes > 0) {
      std::memcpy(copy.data_ptr(), begin, bytes);
    }
    return copy;
  }
  return at::from_blob(
      begin, entry.shape, [mapping = mapping_](void*) {}, options);
}

const std::map<std::string, std::string>& SafetensorsFile::metadata() const {
  return mapping_->metadata;
}

} // namespace rora
