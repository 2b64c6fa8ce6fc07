#pragma once

#include <rora/model/key_value_cache.h>
#include <rora/model/llama_layer.h>
#include <rora/model/llama_options.h>
#include <rora/model/prepared_input.h>
#include <rora/model/rms_norm.h>

#include <torch/nn/module.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/modules/embedding.h>

namespace rora {

/// What a forward pass reads. All tensors but `inputs_embeds` are int64, and lie on the model's device or on the CPU.
struct LlamaInput {
  at::Tensor input_ids; ///< `[batch, seq]`
  /// `[batch, seq]`, or `[batch, cached + seq]` with a cache: 0 on padding, k ≥ 1 on the tokens of a row's k-th
  /// sequence. A token sees the earlier tokens of its own sequence. Undefined: every row is one sequence. For a model
  /// on a GPU it should stay on the CPU, where it is read: a mask on the GPU has to be waited for.
  at::Tensor attention_mask{};
  /// `[batch, seq]`; where undefined, each sequence counts its own tokens from 0.
  at::Tensor position_ids{};
  /// `[batch, seq, hidden]`: what enters the first layer instead of the embeddings of `input_ids`, if defined.
  at::Tensor inputs_embeds{};
};

/// The decoder without its head (transformers' `LlamaModel`).
class LlamaModelImpl : public torch::nn::Module {
 public:
  explicit LlamaModelImpl(const LlamaOptions& options);

  /// The normed hidden states, `[batch, seq, hidden]`.
  at::Tensor forward(const LlamaInput& input, KeyValueCache* cache = nullptr);

  /// Those of the tokens `chosen` alone, int64 positions in batch·seq: `[chosen, hidden]`. Behind its attention, the last
  /// layer computes no others.
  at::Tensor states(const LlamaInput& input, const at::Tensor& chosen);

  /// What `compute` reads, where its tensors were or on the CPU. `cached` are the tokens of a cache. A mask is read where it
  /// lies.
  PreparedInput prepare(const LlamaInput& input, int64_t cached = 0) const;

  /// `forward`, or `states` as `[1, chosen, hidden]`, from what lies on the model's device: the host decides nothing by
  /// values, and nothing waits.
  at::Tensor compute(const PreparedInput& input, KeyValueCache* cache = nullptr);

  LlamaOptions options;
  torch::nn::Embedding embed_tokens{nullptr};
  torch::nn::ModuleList layers{nullptr};
  RMSNorm norm{nullptr};
  /// Layers recompute their activations in backward instead of keeping them.
  bool activation_checkpointing = false;
};
TORCH_MODULE(LlamaModel);

/// The sum of a batch's token losses and how many tokens it counts.
struct LossSum {
  at::Tensor sum; ///< fp32 scalar (fp64 for a model in fp64)
  int64_t tokens = 0;
};

/// A LLaMA with its language-model head. Parameter names are those of transformers (`model.layers.0.self_attn.q_proj.weight`).
class LlamaForCausalLMImpl : public torch::nn::Module {
 public:
  explicit LlamaForCausalLMImpl(const LlamaOptions& options);

  /// Logits `[batch, seq, vocab]` in the model's dtype.
  at::Tensor forward(const LlamaInput& input, KeyValueCache* cache = nullptr);

  /// The cross-entropy of each labelled token from the tokens before it, summed in fp32. `labels` is int64
  /// `[batch, seq]`, unshifted, `kIgnoreIndex` (−100) where no loss is taken; logits exist for labelled tokens alone,
  /// a chunk at a time; all of them at once where an adapter of lm_head is active. With labels on the CPU the program
  /// does not wait for a GPU. Throws `std::out_of_range` for a label outside the vocabulary.
  LossSum loss(const LlamaInput& input, const at::Tensor& labels);

  /// `loss` in its two halves: what a host makes of a batch, and the sum that the model's device computes from it there.
  PreparedLoss prepare_loss(const LlamaInput& input, const at::Tensor& labels) const;
  at::Tensor compute_loss(const PreparedLoss& prepared);

  /// The head's projection of hidden states `[..., hidden]`.
  at::Tensor logits(const at::Tensor& hidden);

  /// The head's weight `[vocab, hidden]`: the embedding's where tied.
  at::Tensor head_weight() const;

  LlamaOptions options;
  LlamaModel model{nullptr};
  Projection lm_head{nullptr}; ///< null where the head is tied to the embedding
};
TORCH_MODULE(LlamaForCausalLM);

} // namespace rora
