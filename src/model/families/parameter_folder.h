#pragma once

#include <rora/checkpoint/model_folder.h>
#include <rora/model/families/family.h>

#include <filesystem>
#include <string>
#include <vector>

namespace rora::detail {

inline constexpr const char* kEmbedding = "model.embed_tokens.weight";
inline constexpr const char* kHead = "lm_head.weight";

/// A model folder, asked by the names of parameters for tensors that the family's folders may call otherwise.
class ParameterFolder {
 public:
  ParameterFolder(const ModelFolder& folder, const ModelFamily& family) : folder_(folder), family_(family) {}

  const std::filesystem::path& path() const {
    return folder_.path();
  }
  /// What the folder calls the parameter, for error messages.
  std::string key(const std::string& parameter) const {
    return family_.stored_name(parameter);
  }
  bool contains(const std::string& parameter) const {
    return folder_.contains(key(parameter));
  }
  std::vector<int64_t> shape(const std::string& parameter) const {
    return folder_.shape(key(parameter));
  }
  at::ScalarType dtype(const std::string& parameter) const {
    return folder_.dtype(key(parameter));
  }
  at::Tensor tensor(const std::string& parameter) const {
    return folder_.tensor(key(parameter));
  }
  const std::filesystem::path& file(const std::string& parameter) const {
    return folder_.file(key(parameter));
  }

  /// The folder's tensors as it calls them, without leftovers that say nothing about the model: old folders hold the
  /// rotary frequencies.
  std::vector<std::string> keys() const {
    std::vector<std::string> keys = folder_.names();
    std::erase_if(keys, [](const std::string& key) { return key.ends_with(".rotary_emb.inv_freq"); });
    return keys;
  }
  /// The same as parameters.
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const std::string& key : keys()) {
      names.push_back(family_.parameter_name(key));
    }
    return names;
  }

 private:
  const ModelFolder& folder_;
  const ModelFamily& family_;
};

} // namespace rora::detail
