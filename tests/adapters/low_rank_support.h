#pragma once

#include "support/gradcheck.h"
#include "support/test_data.h"
#include "support/tiny_llama.h"

#include <rora/adapters/low_rank_folder.h>
#include <rora/adapters/peft_folder.h>
#include <rora/checkpoint/file.h>
#include <rora/checkpoint/safetensors.h>
#include <rora/core/projection.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace rora::testing {

inline at::Tensor logits_of(CausalLM model) {
  at::NoGradGuard no_grad;
  return model->forward({at::arange(10, at::kLong).view({1, 10}), {}, {}});
}

/// Saves random adapters of a tiny LLaMA and reads them.
inline LowRankFolder make_folder(
    const std::filesystem::path& folder, const AdapterOptions& options, uint64_t seed = 1) {
  auto model = tiny_llama();
  at::manual_seed(seed);
  attach_adapters(*model, options);
  at::NoGradGuard no_grad;
  for (const auto& [name, parameter] : named_adapter_parameters(*model)) {
    at::Tensor(parameter).add_(at::randn_like(parameter), 0.2);
  }
  save_adapter(*model, folder, SaveAdapterOptions().base_model("tiny"));
  return read_low_rank_folder(folder);
}

/// What a tiny LLaMA computes with the folder's adapter.
inline at::Tensor logits_with(const std::filesystem::path& folder) {
  auto model = tiny_llama();
  load_adapter(*model, folder);
  return logits_of(model);
}

/// ΔW by module, in fp64.
using DenseChanges = std::map<std::string, at::Tensor>;

inline at::Tensor dense(const LowRankChange& change) {
  return change.b.to(at::kDouble).mm(change.a.to(at::kDouble)) * change.scale;
}

inline DenseChanges dense(const LowRankFolder& adapter) {
  DenseChanges changes;
  for (const auto& [module, change] : adapter.modules) {
    changes.emplace(module, dense(change));
  }
  return changes;
}

inline void expect_near(const DenseChanges& found, const DenseChanges& expected, double tolerance) {
  ASSERT_EQ(found.size(), expected.size());
  for (const auto& [module, change] : expected) {
    ASSERT_TRUE(found.count(module)) << module;
    EXPECT_LE(relative_error(found.at(module), change), tolerance) << module;
  }
}

inline void expect_same_bytes(const std::filesystem::path& found, const std::filesystem::path& expected) {
  for (const char* file : {"adapter_config.json", "adapter_model.safetensors"}) {
    EXPECT_EQ(read_file(found / file), read_file(expected / file)) << file;
  }
}

inline nlohmann::ordered_json config_of(const std::filesystem::path& folder) {
  return nlohmann::ordered_json::parse(read_file(folder / "adapter_config.json"));
}

inline void change_config(
    const std::filesystem::path& folder, const std::string& field, const nlohmann::ordered_json& value) {
  auto config = config_of(folder);
  config[field] = value;
  write_file(folder / "adapter_config.json", config.dump());
}

using TensorsByKey = std::map<std::string, at::Tensor>;

inline TensorsByKey tensors_of(const std::filesystem::path& folder) {
  const SafetensorsFile file(folder / "adapter_model.safetensors", /*mapped=*/false);
  TensorsByKey tensors;
  for (const std::string& name : file.names()) {
    tensors.emplace(name, file.tensor(name));
  }
  return tensors;
}

inline void write_tensors(const std::filesystem::path& folder, const TensorsByKey& tensors) {
  save_safetensors(folder / "adapter_model.safetensors", {tensors.begin(), tensors.end()});
}

inline AdapterOptions with_patterns(const LowRankOptions& low_rank) {
  return AdapterOptions()
      .low_rank(low_rank)
      .rank_pattern({{"layers.1.mlp.down_proj", 5}, {"down_proj", 2}, {"q_proj", 1}})
      .alpha_pattern({{"self_attn.q_proj", 0.75}, {"layers.0.mlp.gate_proj", 9.0}});
}

} // namespace rora::testing
