#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace rora::detail {

/// The reference implementation's limit on the header's length, in bytes.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;

constexpr std::string_view kMetadataKey = "__metadata__";

/// LibTorch's type for a dtype's name in the format ("BF16"). The 8-bit and smaller floats are left out on purpose:
/// their values mean nothing without scales that are stored elsewhere.
std::optional<at::ScalarType> dtype_from_name(std::string_view name);
/// Empty if the format, or this library, has no such dtype.
std::string_view dtype_name(at::ScalarType dtype);

struct TensorEntry {
  std::string name;
  at::ScalarType dtype = at::kFloat;
  std::vector<int64_t> shape;
  /// Bytes from the start of the data, which follows the header.
  uint64_t begin = 0;
  uint64_t end = 0;
};

struct SafetensorsHeader {
  /// In the order of their data.
  std::vector<TensorEntry> tensors;
  std::map<std::string, std::string> metadata;
};

/// Parses and checks the header `text` of `path`, which is followed by `data_bytes` bytes. Throws `FormatError`.
SafetensorsHeader parse_safetensors_header(
    const std::filesystem::path& path, std::string_view text, uint64_t data_bytes);

} // namespace rora::detail
