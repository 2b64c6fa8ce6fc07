#include <rora/checkpoint/model_folder.h>

#include <rora/error.h>

#include "checkpoint/atomic_file.h"
#include "checkpoint/model_folder.h"
#include "checkpoint/safetensors_writer.h"

#include <nlohmann/json.hpp>

#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <set>

namespace rora {

namespace {

const std::map<std::string, std::string> kMetadata{{"format", "pt"}};

/// Cuts the list, in its order, into runs of at most `max_bytes`; a tensor larger than that gets a file of its own.
std::vector<NamedTensors> split_shards(const NamedTensors& tensors, int64_t max_bytes) {
  std::vector<NamedTensors> shards(1);
  int64_t bytes = 0;
  for (const auto& named : tensors) {
    const int64_t size = static_cast<int64_t>(named.second.nbytes());
    if (!shards.back().empty() && size > max_bytes - bytes) {
      shards.emplace_back();
      bytes = 0;
    }
    shards.back().push_back(named);
    bytes += size;
  }
  return shards;
}

std::string shard_name(size_t shard, size_t count) {
  char name[64];
  std::snprintf(name, sizeof(name), "model-%05zu-of-%05zu.safetensors", shard + 1, count);
  return name;
}

/// model-DDDDD-of-DDDDD.safetensors
bool is_shard_name(const std::string& name) {
  const std::string pattern = "model-00000-of-00000.safetensors";
  return name.size() == pattern.size() && std::equal(name.begin(), name.end(), pattern.begin(), [](char c, char p) {
           return p == '0' ? c >= '0' && c <= '9' : c == p;
         });
}

std::string index_text(const std::vector<NamedTensors>& shards) {
  int64_t total = 0;
  nlohmann::json weight_map = nlohmann::json::object();
  for (size_t i = 0; i < shards.size(); ++i) {
    for (const auto& [name, tensor] : shards[i]) {
      weight_map[name] = shard_name(i, shards.size());
      total += static_cast<int64_t>(tensor.nbytes());
    }
  }
  const nlohmann::json index{{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}};
  return index.dump(2) + "\n";
}

void remove_file(const std::filesystem::path& path) {
  std::error_code error;
  std::filesystem::remove(path, error);
  if (error) {
    throw FileError(path, "cannot remove: " + error.message());
  }
}

/// Removes the weights of earlier saves that are not in `keep`.
void remove_stale_weights(const std::filesystem::path& folder, const std::set<std::string>& keep) {
  std::vector<std::string> stale{detail::kModelFile, detail::kModelIndex};
  std::error_code error;
  for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    if (is_shard_name(entry->path().filename().string())) {
      stale.push_back(entry->path().filename().string());
    }
  }
  if (error) {
    throw FileError(folder, "cannot list the folder: " + error.message());
  }
  for (const std::string& name : stale) {
    if (!keep.contains(name)) {
      remove_file(folder / name);
    }
  }
}

void save_shards(const std::filesystem::path& folder, const std::vector<NamedTensors>& shards) {
  std::vector<std::unique_ptr<detail::AtomicFile>> files;
  std::set<std::string> keep{detail::kModelIndex};
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = shard_name(i, shards.size());
    files.push_back(std::make_unique<detail::AtomicFile>(folder / name));
    detail::write_safetensors(*files.back(), shards[i], kMetadata);
    files.back()->flush();
    keep.insert(name);
  }
  detail::AtomicFile index(folder / detail::kModelIndex);
  index.write(index_text(shards));
  index.flush();
  // All content is on the disk now. An old index over new shards of the same names would mix two models, so it goes
  // first: whoever reads in between finds either model.safetensors, whole, or an error.
  remove_file(folder / detail::kModelIndex);
  detail::sync_folder(folder);
  for (auto& file : files) {
    file->commit();
  }
  index.commit();
  remove_stale_weights(folder, keep);
}

} // namespace

void save_model_tensors(const std::filesystem::path& folder, const NamedTensors& tensors, int64_t max_shard_bytes) {
  if (max_shard_bytes <= 0) {
    C10_THROW_ERROR(ValueError, "save_model_tensors: max_shard_bytes must be positive");
  }
  detail::check_saveable(tensors, kMetadata);
  const auto shards = split_shards(tensors, max_shard_bytes);
  if (shards.size() == 1) {
    save_safetensors(folder / detail::kModelFile, tensors, kMetadata);
    remove_stale_weights(folder, {detail::kModelFile});
  } else {
    save_shards(folder, shards);
  }
  detail::sync_folder(folder);
}

} // namespace rora
