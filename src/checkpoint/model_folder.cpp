#include <rora/checkpoint/model_folder.h>

#include <rora/error.h>

#include "checkpoint/json.h"
#include "checkpoint/model_folder.h"
#include "checkpoint/other_forms.h"
#include "checkpoint/quote.h"

namespace rora {

namespace {

using detail::quote;

/// The index's `weight_map`: the shard of each tensor.
std::map<std::string, std::string> read_weight_map(const std::filesystem::path& path) {
  const auto index = detail::read_sorted_json(path);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    throw FormatError(path, "weight_map: expected an object of tensor names and files");
  }
  std::map<std::string, std::string> shards;
  for (const auto& [name, shard] : index["weight_map"].items()) {
    const std::string where = "weight_map: tensor " + quote(name);
    if (!shard.is_string()) {
      throw FormatError(path, where + ": expected a file's name, found " + shard.type_name());
    }
    const std::string& file = shard.get_ref<const std::string&>();
    if (file.empty() || file == "." || file == ".." || file.find_first_of(std::string_view("/\\\0", 3)) != file.npos) {
      throw FormatError(path, where + ": expected the name of a file in this folder, found " + quote(file));
    }
    shards.emplace(name, file);
  }
  if (shards.empty()) {
    throw FormatError(path, "weight_map names no tensors");
  }
  return shards;
}

} // namespace

ModelFolder::ModelFolder(const std::filesystem::path& folder, bool mapped) : path_(folder) {
  std::error_code ignored;
  detail::require_folder(folder);
  // As transformers does, the single file comes first where both are there.
  const auto index_path = folder / detail::kModelIndex;
  if (!std::filesystem::exists(std::filesystem::symlink_status(index_path, ignored)) ||
      std::filesystem::exists(folder / detail::kModelFile, ignored)) {
    if (!std::filesystem::exists(std::filesystem::symlink_status(folder / detail::kModelFile, ignored))) {
      throw FileError(
          folder,
          std::string("holds neither ") + detail::kModelFile + " nor " + detail::kModelIndex +
              detail::weights_in_another_form(folder, "model"));
    }
    shards_.emplace_back(folder / detail::kModelFile, mapped);
    for (const std::string& name : shards_.front().names()) {
      shard_of_.emplace(name, 0);
    }
  } else {
    open_shards(index_path, mapped);
  }
  for (const auto& [name, shard] : shard_of_) {
    names_.push_back(name);
  }
}

void ModelFolder::open_shards(const std::filesystem::path& index_path, bool mapped) {
  const auto weight_map = read_weight_map(index_path);
  std::map<std::string, size_t> opened;
  for (const auto& [name, file] : weight_map) {
    if (!opened.contains(file)) {
      std::error_code ignored;
      if (!std::filesystem::exists(path_ / file, ignored)) {
        throw FileError(index_path, "tensor " + quote(name) + ": its file " + quote(file) + " is missing");
      }
      opened.emplace(file, shards_.size());
      shards_.emplace_back(path_ / file, mapped);
    }
    const size_t shard = opened.at(file);
    if (!shards_[shard].contains(name)) {
      throw FormatError(index_path, "tensor " + quote(name) + " is not in its file " + quote(file));
    }
    shard_of_.emplace(name, shard);
  }
  for (size_t shard = 0; shard < shards_.size(); ++shard) {
    for (const std::string& name : shards_[shard].names()) {
      const auto expected = shard_of_.find(name);
      if (expected == shard_of_.end()) {
        throw FormatError(shards_[shard].path(), "tensor " + quote(name) + " is not named by " + detail::kModelIndex);
      }
      if (expected->second != shard) {
        throw FormatError(
            shards_[shard].path(),
            "tensor " + quote(name) + " is also in " + shards_[expected->second].path().filename().string());
      }
    }
  }
}

const SafetensorsFile& ModelFolder::shard(const std::string& name) const {
  const auto found = shard_of_.find(name);
  if (found == shard_of_.end()) {
    throw FormatError(path_, "holds no tensor " + quote(name));
  }
  return shards_[found->second];
}

const std::filesystem::path& ModelFolder::path() const {
  return path_;
}

const std::vector<std::string>& ModelFolder::names() const {
  return names_;
}

bool ModelFolder::contains(const std::string& name) const {
  return shard_of_.contains(name);
}

std::vector<int64_t> ModelFolder::shape(const std::string& name) const {
  return shard(name).shape(name);
}

at::ScalarType ModelFolder::dtype(const std::string& name) const {
  return shard(name).dtype(name);
}

at::Tensor ModelFolder::tensor(const std::string& name) const {
  return shard(name).tensor(name);
}

const std::filesystem::path& ModelFolder::file(const std::string& name) const {
  return shard(name).path();
}

} // namespace rora
