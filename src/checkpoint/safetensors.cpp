#include <rora/checkpoint/safetensors.h>

#include <rora/error.h>

#include "checkpoint/mapped_file.h"
#include "checkpoint/other_forms.h"
#include "checkpoint/quote.h"
#include "checkpoint/safetensors_header.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <string_view>
#include <unordered_map>

namespace rora {

static_assert(std::endian::native == std::endian::little, "safetensors data is little-endian");

struct SafetensorsFile::Mapping {
  Mapping(const std::filesystem::path& path, bool mapped) : file(path, mapped), path(file.path()) {
    read_header();
  }

  const detail::TensorEntry& entry(const std::string& name) const;

  detail::MappedFile file;
  const std::filesystem::path& path;
  char* data = nullptr;
  std::vector<detail::TensorEntry> entries;
  std::vector<std::string> names;
  std::unordered_map<std::string, size_t> index;
  std::map<std::string, std::string> metadata;

 private:
  void read_header();
};

void SafetensorsFile::Mapping::read_header() {
  const char* const base = file.data();
  const size_t size = file.size();
  if (size < 8) {
    throw FormatError(path, "expected at least the 8 bytes of the header length, found " + std::to_string(size));
  }
  if (detail::is_lfs_pointer(std::string_view(base, std::min<size_t>(size, 64)))) {
    throw FormatError(path, detail::kLfsPointer);
  }
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
  data = file.data() + 8 + length;
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

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path, bool mapped)
    : mapping_(std::make_shared<Mapping>(path, mapped)) {}

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
