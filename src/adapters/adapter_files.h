#pragma once

#include <rora/checkpoint/safetensors.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace rora::detail {

inline constexpr const char* kConfigFile = "adapter_config.json";
inline constexpr const char* kWeightsFile = "adapter_model.safetensors";

/// The folder's tensors. Throws `FileError` and `FormatError`.
SafetensorsFile open_adapter_weights(const std::filesystem::path& folder, bool mapped = true);

/// Throws `FormatError` unless the tensor is there, of that shape, and of finite numbers.
void check_adapter_tensor(const SafetensorsFile& file, const std::string& key, const std::vector<int64_t>& shape);

/// Throws the `FormatError` for a tensor that the config does not ask for.
[[noreturn]] void fail_for_tensor_beyond(const SafetensorsFile& file, const std::string& key);

/// Writes both files into `folder`, which is made if need be. Throws `FileError`; a full disk leaves earlier files as
/// they were.
void write_adapter_files(
    const std::filesystem::path& folder, const std::string& config, const std::map<std::string, at::Tensor>& tensors);

} // namespace rora::detail
