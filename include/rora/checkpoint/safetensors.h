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

/// One safetensors file, mapped privately into memory, or read into it.
///
/// Opening reads the header alone, checks every rule of the format and throws `FileError` (cannot be opened or mapped)
/// or `FormatError` (header length, JSON, dtype, shape, offsets out of range, overlap, holes, trailing bytes), naming
/// the file and the tensor. Dtypes are F64, F32, F16, BF16, I8 to I64, U8 to U64 and BOOL; others are refused.
/// Tensors share the mapping, which lives as long as any of them: no weight is copied, unless its offset is not a
/// multiple of its element size. Writing to such a tensor changes this process's pages only, never the file. As with
/// any mapping, whoever cuts the file short meanwhile ends the process by SIGBUS, and whoever writes into it may change
/// the tensors (`checkpoint/mapped_files.h` helps to say so); replacing it by rename, as all of rora's writers do,
/// leaves the tensors what they were. A file that is not `mapped` is read whole, and what happens to it later is no
/// matter.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path, bool mapped = true);

  const std::filesystem::path& path() const;
  /// The names in the order of the tensors' data.
  const std::vector<std::string>& names() const;
  bool contains(const std::string& name) const;
  std::vector<int64_t> shape(const std::string& name) const;
  at::ScalarType dtype(const std::string& name) const;
  /// On the CPU, contiguous. Throws `FormatError` if there is no tensor of that name or a BOOL is neither 0 nor 1.
  at::Tensor tensor(const std::string& name) const;
  /// The free-form `__metadata__` strings.
  const std::map<std::string, std::string>& metadata() const;

 private:
  struct Mapping;
  std::shared_ptr<const Mapping> mapping_;
};

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/// Writes `tensors` in the order given, through a temporary file beside `path`, fsync and rename: `path` holds either
/// its old content or all of the new. Tensors may be strided and on any device; each is saved as its values. Bytes
/// depend on names, tensors and metadata alone, and are those of the Python library if the order is that of its files.
/// Wider element types first keep every tensor aligned, so that reading copies none. Throws `FileError` (read-only
/// folder, full disk) leaving nothing behind, and `c10::ValueError` for a name given twice, text that is not
/// UTF-8, or a tensor without dense data or with a dtype that `SafetensorsFile` does not read.
void save_safetensors(
    const std::filesystem::path& path, const NamedTensors& tensors,
    const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

} // namespace rora
