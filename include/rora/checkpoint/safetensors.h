#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace rora {

/// One safetensors file, mapped privately into memory.
///
/// Opening checks every rule of the format and throws `FileError` (cannot be opened or mapped) or `FormatError`
/// (header length, JSON, dtype, shape, offsets out of range, overlap, holes), naming the file and the tensor.
/// Tensors share the mapping, which lives as long as any of them: no weight is copied, unless its offset is not a
/// multiple of its element size. Writing to such a tensor changes this process's pages only, never the file.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const;
  /// The names in the order of the tensors' data.
  const std::vector<std::string>& names() const;
  bool contains(const std::string& name) const;
  std::vector<int64_t> shape(const std::string& name) const;
  at::ScalarType dtype(const std::string& name) const;
  /// Throws `FormatError` if there is no tensor of that name.
  at::Tensor tensor(const std::string& name) const;
  /// The free-form `__metadata__` strings.
  const std::map<std::string, std::string>& metadata() const;

 private:
  struct Mapping;
  std::shared_ptr<const Mapping> mapping_;
};

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/// Writes `tensors` in the order given, through a temporary file beside `path`, fsync and rename: `path` holds either
/// its old content or all of the new. Bytes depend on names, tensors and metadata alone. Throws `FileError` (read-only
/// folder, full disk) leaving nothing behind, and `std::invalid_argument` for a name given twice or a dtype that
/// safetensors lacks.
void save_safetensors(
    const std::filesystem::path& path,
    const NamedTensors& tensors,
    const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

} // namespace rora
