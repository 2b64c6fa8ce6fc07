#pragma once

#include <torch/arg.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace rora {

enum class RopeScaling { kNone, kLinear, kDynamic, kLlama3 };

/// Rotary embedding: `rope_parameters`, or `rope_theta` and `rope_scaling`, of config.json.
struct RopeOptions {
  TORCH_ARG(double, theta) = 10000.0;
  TORCH_ARG(RopeScaling, scaling) = RopeScaling::kNone;
  TORCH_ARG(double, factor) = 1.0;
  TORCH_ARG(double, low_freq_factor) = 1.0; // llama3
  TORCH_ARG(double, high_freq_factor) = 4.0; // llama3
  TORCH_ARG(int64_t, original_max_position_embeddings) = 0; // llama3; 0: max_position_embeddings
};

/// What may differ from layer to layer (pruned models).
struct LayerShape {
  int64_t num_attention_heads = 0; // 0: the layer has no attention
  int64_t num_key_value_heads = 0;
  int64_t intermediate_size = 0; // 0: the layer has no MLP
  bool operator==(const LayerShape&) const = default;
};

/// A LLaMA's sizes, with transformers' names and defaults.
struct DecoderOptions {
  TORCH_ARG(int64_t, vocab_size) = 32000;
  TORCH_ARG(int64_t, hidden_size) = 4096;
  TORCH_ARG(int64_t, intermediate_size) = 11008;
  TORCH_ARG(int64_t, num_hidden_layers) = 32;
  TORCH_ARG(int64_t, num_attention_heads) = 32;
  TORCH_ARG(int64_t, num_key_value_heads) = 0; // 0: num_attention_heads
  TORCH_ARG(int64_t, head_dim) = 0; // 0: hidden_size / num_attention_heads
  TORCH_ARG(int64_t, max_position_embeddings) = 2048;
  TORCH_ARG(double, rms_norm_eps) = 1e-6;
  TORCH_ARG(double, initializer_range) = 0.02;
  TORCH_ARG(bool, tie_word_embeddings) = false;
  TORCH_ARG(bool, attention_bias) = false; // on q, k, v and o
  TORCH_ARG(bool, mlp_bias) = false;
  TORCH_ARG(RopeOptions, rope);
  TORCH_ARG(std::vector<int64_t>, eos_token_id); // generation stops at any of them
  TORCH_ARG(std::optional<int64_t>, bos_token_id);
  TORCH_ARG(std::vector<LayerShape>, layer_shapes); // empty: all layers are alike

 public:
  int64_t resolved_head_dim() const;
  LayerShape layer_shape(int64_t layer) const;
  /// Throws `std::invalid_argument` naming the field that contradicts another.
  void validate() const;
};

/// Reads `config.json` of a Hugging Face folder, or a file like it. Throws `FileError`, or `FormatError` naming the
/// field: also for what a config asks for and this library lacks (another activation, another rope type, another
/// architecture).
DecoderOptions read_model_config(const std::filesystem::path& folder_or_file);

/// The `config.json` that `read_model_config` and transformers read back. `torch_dtype` is "float32", "bfloat16" ….
std::string model_config_json(const DecoderOptions& options, const std::string& torch_dtype);

} // namespace rora
