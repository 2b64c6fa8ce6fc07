#pragma once

#include <rora/core/projection.h>
#include <rora/model/decoder_options.h>
#include <rora/model/key_value_cache.h>
#include <rora/model/layer_memory.h>
#include <rora/model/module_adapter.h>
#include <rora/model/rms_norm.h>
#include <rora/ops/attention.h>

#include <torch/nn/module.h>

namespace rora {

/// What turns q and k by their positions, each `[batch or 1, seq, head_dim]` in the model's dtype.
struct RotaryTables {
  at::Tensor cos;
  at::Tensor sin;
};

/// What every layer of one forward pass shares: computed once, read by each.
struct LayerContext {
  RotaryTables rotary;
  RotaryTables sliding_rotary; ///< of layers with a window
  ops::Sequences sequences; ///< of `ModelInput::attention_mask`
  KeyValueCache* cache = nullptr;
  /// int64 `[chosen]`, of batch·seq: the only tokens whose states are wanted behind attention. Undefined: all.
  at::Tensor chosen;
  /// Whether norms' results, and the MLP's product of gate and up, are formed again in backward and not kept.
  bool forms_again = false;

  /// x `[batch, seq, size]`, or its chosen tokens `[1, chosen, size]`.
  at::Tensor of_chosen(const at::Tensor& x) const {
    return chosen.defined() ? x.flatten(0, 1).index_select(0, chosen).unsqueeze(0) : x;
  }
};

/// Grouped-query attention (transformers' `LlamaAttention`): q and k by head, normed and turned by their positions
/// where the options say so, and q·k times 1/√head_dim or `attention_multiplier`.
///
/// A token sees those of its sequence up to itself; where the layer has a window, its last ones, counted without
/// padding. Keys beyond the window stay in the cache. An adapter's prefix is seen by every token, in a window or not,
/// unless it takes positions as tokens do.
class AttentionImpl : public AdaptedModule<AttentionAdapter> {
 public:
  AttentionImpl(const DecoderOptions& options, int64_t layer);

  /// What attention adds to a stream `[batch, seq, hidden]`, which `norm` norms where there is one and whose sum
  /// becomes its states: of the same shape, or `[1, chosen, hidden]`.
  StreamChange forward(RMSNormImpl* norm, ResidualStream& stream, const LayerContext& context);

  /// What it keeps with the norm in front, whose result is formed again where `norm_forms_again`. A token's states
  /// are `hidden` numbers.
  KeptNumbers memory(int64_t hidden, bool norm_forms_again = false) const;

  int64_t head_dim() const {
    return head_dim_;
  }

  Projection q_proj{nullptr};
  Projection k_proj{nullptr};
  Projection v_proj{nullptr};
  Projection o_proj{nullptr};
  RMSNorm q_norm{nullptr}; ///< of each head's q, or of all heads' together; null without `qk_norm`
  RMSNorm k_norm{nullptr}; ///< the same of k

 private:
  at::Tensor turned(
      const at::Tensor& flat, RMSNorm& norm, const LayerContext& context, const ops::GradientPlace& place) const;
  int64_t put_prefix(at::Tensor& k, at::Tensor& v, const LayerContext& context);

  int64_t layer_;
  int64_t head_dim_;
  int64_t window_;
  bool rotates_;
  bool norms_all_heads_;
  double query_scale_; // beside the 1/√head_dim of the operation
};
TORCH_MODULE(Attention);

/// down(act(gate(x)) ⊙ up(x)), act silu (Shazeer, arXiv 2002.05202, eq 6) or gelu.
class MLPImpl : public AdaptedModule<MLPAdapter> {
 public:
  MLPImpl(const DecoderOptions& options, int64_t layer);

  /// Of a stream `[batch, seq, hidden]`, which `norm` norms where there is one and whose sum becomes its states; the
  /// result has that shape. `forms_again`: of `LayerContext`; an adapter in the MLP's slot keeps everything.
  StreamChange forward(RMSNormImpl* norm, ResidualStream& stream, bool forms_again = false);

  /// The MLP itself, whatever adapter stands in its slot: x `[..., hidden]` → the same shape.
  at::Tensor forward(const at::Tensor& x);

  /// What it keeps with the norm in front of it. `hidden` numbers are a token's states.
  KeptNumbers memory(int64_t hidden, bool forms_again = false, bool norm_forms_again = false) const;

  Projection gate_proj{nullptr};
  Projection up_proj{nullptr};
  Projection down_proj{nullptr};

 private:
  Activation activation_;
};
TORCH_MODULE(MLP);

/// h = x + m·attention(norm(x)); y = h + m·mlp(norm(h)), m the `residual_multiplier`; by `norm_placement`
/// h = x + m·norm(attention(x)), or norms before and after, and the same of the MLP. A pruned layer may lack either
/// half.
///
/// The norms have transformers' names, by which `post_attention_layernorm` stands before the MLP in LLaMA and after
/// attention where there are norms after. Those that the placement lacks are null.
class DecoderLayerImpl : public torch::nn::Module {
 public:
  DecoderLayerImpl(const DecoderOptions& options, int64_t layer);

  /// Of states `[batch, seq, hidden]`, or `[1, chosen, hidden]` behind attention.
  ResidualStream forward(ResidualStream stream, const LayerContext& context);

  /// x `[batch, seq, hidden]` → the same shape, or `[1, chosen, hidden]`.
  at::Tensor forward(const at::Tensor& x, const LayerContext& context);

  /// What the layer keeps for its backward. `forms_again`: of `LayerContext`.
  LayerMemory memory(bool forms_again = false) const;

  RMSNorm input_layernorm{nullptr};
  Attention self_attn{nullptr}; ///< null where the layer has none
  RMSNorm post_attention_layernorm{nullptr};
  RMSNorm pre_feedforward_layernorm{nullptr};
  MLP mlp{nullptr}; ///< null where the layer has none
  RMSNorm post_feedforward_layernorm{nullptr};

 private:
  RMSNorm& norm_before_mlp();

  NormPlacement norm_placement_;
  int64_t hidden_;
  double residual_multiplier_;
};
TORCH_MODULE(DecoderLayer);

} // namespace rora
