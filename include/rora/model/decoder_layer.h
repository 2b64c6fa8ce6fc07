#pragma once

#include <rora/model/key_value_cache.h>
#include <rora/model/decoder_options.h>
#include <rora/core/projection.h>
#include <rora/model/rms_norm.h>
#include <rora/ops/attention.h>

#include <torch/nn/module.h>

namespace rora {

/// What every layer of one forward pass shares: computed once, read by each.
struct LayerContext {
  at::Tensor cos; ///< `[batch or 1, seq, head_dim]` in the model's dtype
  at::Tensor sin; ///< the same
  ops::Sequences sequences; ///< of `ModelInput::attention_mask`
  KeyValueCache* cache = nullptr;
  /// int64 `[chosen]`, of batch·seq: the only tokens whose states are wanted behind attention. Undefined: all.
  at::Tensor chosen;

  /// x `[batch, seq, size]`, or its chosen tokens `[1, chosen, size]`.
  at::Tensor of_chosen(const at::Tensor& x) const {
    return chosen.defined() ? x.flatten(0, 1).index_select(0, chosen).unsqueeze(0) : x;
  }
};

/// Grouped-query attention with rotary positions (transformers' `LlamaAttention`).
class AttentionImpl : public torch::nn::Module {
 public:
  AttentionImpl(const DecoderOptions& options, int64_t layer);

  /// Of the norm of a stream `[batch, seq, hidden]`, whose sum becomes its states; the result is `[batch, seq, hidden]` or
  /// `[1, chosen, hidden]`.
  at::Tensor forward(RMSNormImpl& norm, ResidualStream& stream, const LayerContext& context);

  Projection q_proj{nullptr};
  Projection k_proj{nullptr};
  Projection v_proj{nullptr};
  Projection o_proj{nullptr};

 private:
  int64_t layer_;
  int64_t head_dim_;
};
TORCH_MODULE(Attention);

/// down(silu(gate(x)) ⊙ up(x)) (Shazeer, arXiv 2002.05202, eq 6).
class MLPImpl : public torch::nn::Module {
 public:
  MLPImpl(const DecoderOptions& options, int64_t layer);

  /// Of the norm of a stream `[batch, seq, hidden]`, whose sum becomes its states; the result has that shape.
  at::Tensor forward(RMSNormImpl& norm, ResidualStream& stream);

  Projection gate_proj{nullptr};
  Projection up_proj{nullptr};
  Projection down_proj{nullptr};
};
TORCH_MODULE(MLP);

/// h = x + attention(norm(x)); y = h + mlp(norm(h)). A pruned layer may lack either half.
class DecoderLayerImpl : public torch::nn::Module {
 public:
  DecoderLayerImpl(const DecoderOptions& options, int64_t layer);

  /// Of states `[batch, seq, hidden]`, or `[1, chosen, hidden]` behind attention.
  ResidualStream forward(ResidualStream stream, const LayerContext& context);

  /// x `[batch, seq, hidden]` → the same shape, or `[1, chosen, hidden]`.
  at::Tensor forward(const at::Tensor& x, const LayerContext& context);

  RMSNorm input_layernorm{nullptr};
  Attention self_attn{nullptr}; ///< null where the layer has none
  RMSNorm post_attention_layernorm{nullptr};
  MLP mlp{nullptr}; ///< null where the layer has none
};
TORCH_MODULE(DecoderLayer);

} // namespace rora
