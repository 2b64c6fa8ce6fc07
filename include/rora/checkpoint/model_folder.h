#pragma once

#include <rora/checkpoint/safetensors.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace rora {

/// The weights of a Hugging Face model folder: `model.safetensors`, or the shards that `model.safetensors.index.json`
/// names; the single file comes first where both are there, as in transformers. Opening maps, or reads, every shard and
/// checks that index and shards name the same tensors, each once, in files of this folder; throws `FileError` or
/// `FormatError`.
class ModelFolder {
 public:
  explicit ModelFolder(const std::filesystem::path& folder, bool mapped = true);

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
  void open_shards(const std::filesystem::path& index_path, bool mapped);
  const SafetensorsFile& shard(const std::string& name) const;

  std::filesystem::path path_;
  std::vector<SafetensorsFile> shards_;
  std::vector<std::string> names_;
  std::map<std::string, size_t> shard_of_;
};

/// Writes `tensors` in the order given as `model.safetensors`, or, over `max_shard_bytes` bytes, as numbered shards
/// with their index. The folder must exist. Files appear under their names only once all the content is on the disk;
/// weights of an earlier save in another layout are removed after that. A failure leaves the earlier weights or, if it
/// strikes between the last renames, a folder without an index, which does not load; never a mixture. Throws
/// `FileError`, and `c10::ValueError` as `save_safetensors` does.
void save_model_tensors(
    const std::filesystem::path& folder, const NamedTensors& tensors, int64_t max_shard_bytes = int64_t{5} << 30);

} // namespace rora
