#pragma once

#include <rora/checkpoint/safetensors.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace rora {

/// The weights of a Hugging Face model folder: `model.safetensors`, or the shards that `model.safetensors.index.json`
/// names. Opening maps every shard and checks that index and shards agree; throws `FileError` or `FormatError`.
class ModelFolder {
 public:
  explicit ModelFolder(const std::filesystem::path& folder);

  const std::filesystem::path& path() const;
  /// Sorted.
  const std::vector<std::string>& names() const;
  bool contains(const std::string& name) const;
  std::vector<int64_t> shape(const std::string& name) const;
  at::ScalarType dtype(const std::string& name) const;
  /// Shares the mapping of its shard. Throws `FormatError` if there is no tensor of that name.
  at::Tensor tensor(const std::string& name) const;
  /// The file that holds `name`, for error messages.
  const std::filesystem::path& file(const std::string& name) const;

 private:
  std::filesystem::path path_;
  std::vector<SafetensorsFile> shards_;
  std::vector<std::string> names_;
  std::map<std::string, size_t> shard_of_;
};

/// Writes `tensors` as `model.safetensors`, or, over `max_shard_bytes`, as numbered shards with their index.
void save_model_tensors(
    const std::filesystem::path& folder,
    const NamedTensors& tensors,
    int64_t max_shard_bytes = int64_t{5} << 30);

} // namespace rora
