#pragma once

#include "checkpoint/support.h"
#include "support/test_data.h"

#include <rora/checkpoint/file.h>
#include <rora/checkpoint/model_folder.h>
#include <rora/error.h>
#include <rora/model/pretrained.h>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

namespace rora::testing {

/// The logits of the tokens 3 to 23.
inline at::Tensor logits(CausalLM model) {
  at::NoGradGuard no_grad;
  return model->forward({at::arange(3, 24, at::kLong).view({1, 21}), {}, {}});
}

/// A copy of the committed model whose config and tensors a test changes.
class ModelCopy : public ::testing::Test {
 protected:
  ModelCopy() {
    const ModelFolder source(test_data("golden/model"));
    for (const std::string& name : source.names()) {
      tensors[name] = source.tensor(name).clone();
    }
    config = nlohmann::json::parse(read_file(source.path() / "config.json"));
  }

  void write() {
    save_model_tensors(folder.path(), NamedTensors(tensors.begin(), tensors.end()));
    write_file(folder / "config.json", config.dump());
  }

  CausalLM load() {
    write();
    return load_model(folder.path());
  }

  /// The message, less the folder, with which loading fails.
  std::string failure() {
    write();
    const std::string message = message_of<FormatError>([&] { load_model(folder.path()); });
    EXPECT_THAT(message, ::testing::StartsWith(folder.path().string()));
    return message.substr(std::min(message.size(), folder.path().string().size()));
  }

  /// The failure under a config with one field changed.
  std::string failure_with(const std::string& field, const nlohmann::json& value) {
    const nlohmann::json kept = config;
    config[field] = value;
    const std::string message = failure();
    config = kept;
    return message;
  }

  at::Tensor& layer_weight(int64_t layer, const std::string& name) {
    return tensors.at("model.layers." + std::to_string(layer) + "." + name + ".weight");
  }

  void erase(int64_t layer, const std::vector<std::string>& names) {
    for (const std::string& name : names) {
      ASSERT_EQ(tensors.erase("model.layers." + std::to_string(layer) + "." + name + ".weight"), 1u);
    }
  }

  TemporaryFolder folder;
  std::map<std::string, at::Tensor> tensors;
  nlohmann::json config;
};

} // namespace rora::testing
