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

/// Which projections of a layer have a bias.
struct ProjectionBiases {
  bool q = false;
  bool k = false;
  bool v = false;
  bool o = false;
  bool gate = false;
  bool up = false;
  bool down = false;
  bool operator==(const ProjectionBiases&) const = default;
};

/// What the MLP does to its gate.
enum class Activation { kSiLU, kGELUTanh };

/// What a layer's tokens see: all before them in their sequence, or those in `sliding_window`.
enum class LayerType { kFullAttention, kSlidingAttention };

/// Whether attention and MLP are normed: what they read, what they give before it is added, or both.
enum class NormPlacement { kBefore, kAfter, kBeforeAndAfter };

/// The form of a decoder, with transformers' names and LLaMA's defaults. An option at its default costs nothing.
struct DecoderOptions {
  TORCH_ARG(std::string, model_type) = "llama"; // the family (model/families/family.h)
  TORCH_ARG(int64_t, vocab_size) = 32000;
  TORCH_ARG(int64_t, hidden_size) = 4096;
  TORCH_ARG(int64_t, intermediate_size) = 11008; // 0: no layer has an MLP
  TORCH_ARG(int64_t, num_hidden_layers) = 32;
  TORCH_ARG(int64_t, num_attention_heads) = 32; // 0: no layer has an attention
  TORCH_ARG(int64_t, num_key_value_heads) = 0; // 0: num_attention_heads
  TORCH_ARG(int64_t, head_dim) = 0; // 0: hidden_size / num_attention_heads
  TORCH_ARG(int64_t, max_position_embeddings) = 2048;
  TORCH_ARG(double, rms_norm_eps) = 1e-6;
  TORCH_ARG(double, initializer_range) = 0.02;
  TORCH_ARG(bool, tie_word_embeddings) = false;
  TORCH_ARG(ProjectionBiases, bias); // none
  TORCH_ARG(RopeOptions, rope);
  TORCH_ARG(std::vector<int64_t>, eos_token_id); // generation stops at any of them
  TORCH_ARG(std::optional<int64_t>, bos_token_id);
  TORCH_ARG(std::vector<LayerShape>, layer_shapes); // empty: all layers are alike
  TORCH_ARG(Activation, hidden_act) = Activation::kSiLU;
  TORCH_ARG(bool, qk_norm) = false; // an RMSNorm of each head's q and of its k, before rotary positions
  TORCH_ARG(bool, qk_norm_of_all_heads) = false; // with qk_norm: one of all heads' q together, and one of their k
  TORCH_ARG(NormPlacement, norm_placement) = NormPlacement::kBefore;
  TORCH_ARG(bool, norm_adds_one) = false; // norms multiply by 1 + their weight
  TORCH_ARG(int64_t, sliding_window) = 0; // the last tokens that a token sees, itself among them; 0: all
  TORCH_ARG(std::vector<LayerType>, layer_types); // empty: every layer slides, where there is a window
  TORCH_ARG(std::optional<RopeOptions>, sliding_rope); // that of layers with a window; absent: rope
  TORCH_ARG(std::vector<int64_t>, no_rope_layers); // as transformers has it: 1 with rotary positions, 0 without
  TORCH_ARG(double, embedding_multiplier) = 1.0; // of what enters the first layer
  TORCH_ARG(bool, embedding_multiplier_rounds) = false; // it is rounded to the model's dtype first
  TORCH_ARG(double, residual_multiplier) = 1.0; // of what attention and MLP add
  TORCH_ARG(double, attention_multiplier) = 0.0; // of q·k; 0: 1/√head_dim
  TORCH_ARG(double, logits_scaling) = 1.0; // logits are divided by it

 public:
  /// A bias on q, k, v and o, or on none of them.
  DecoderOptions& attention_bias(bool on) {
    bias_.q = bias_.k = bias_.v = bias_.o = on;
    return *this;
  }
  /// A bias on gate, up and down, or on none of them.
  DecoderOptions& mlp_bias(bool on) {
    bias_.gate = bias_.up = bias_.down = on;
    return *this;
  }
  /// Tokens that one of that layer sees, itself among them; 0: all before it.
  int64_t window(int64_t layer) const;
  /// Whether that layer's q and k are turned by their positions.
  bool rotates(int64_t layer) const;
  int64_t resolved_head_dim() const;
  LayerShape layer_shape(int64_t layer) const;
  /// Throws `c10::ValueError` naming the field that is out of range or contradicts another.
  void validate() const;
};

/// Reads `config.json` of a Hugging Face folder, or a file like it, as the family that its `model_type` names; LLaMA
/// where it names none. Throws `FileError`, or `FormatError` naming the field: also for what a config asks for and
/// this library lacks (a family, an activation, a rope type).
DecoderOptions read_model_config(const std::filesystem::path& folder_or_file);

/// The `config.json` that `read_model_config` and transformers read back, as the family that the options name writes
/// it. `torch_dtype` is "float32", "bfloat16" …. Throws `c10::ValueError` for a family that is not registered.
std::string model_config_json(const DecoderOptions& options, const std::string& torch_dtype);

} // namespace rora
