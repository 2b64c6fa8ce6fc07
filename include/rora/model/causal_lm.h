#pragma once

#include <rora/model/decoder_options.h>
#include <rora/model/key_value_cache.h>
#include <rora/model/layer_memory.h>
#include <rora/model/prepared_input.h>

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

namespace rora {

/// What a forward pass reads. All tensors but `inputs_embeds` are int64, and lie on the model's device or on the CPU.
struct ModelInput {
  at::Tensor input_ids; ///< `[batch, seq]`
  /// `[batch, seq]`, or `[batch, cached + seq]` with a cache: 0 on padding, k ≥ 1 on the tokens of a row's k-th
  /// sequence. A token sees the earlier tokens of its own sequence. Undefined: every row is one sequence. For a model
  /// on a GPU it should stay on the CPU, where it is read: a mask on the GPU has to be waited for.
  at::Tensor attention_mask{};
  /// `[batch or 1, seq]`; where undefined, each sequence counts its own tokens from 0.
  at::Tensor position_ids{};
  /// `[batch, seq, hidden]`: what enters the first layer instead of the embeddings of `input_ids`, if defined.
  at::Tensor inputs_embeds{};
};

/// The sum of a batch's token losses and how many tokens it counts.
struct LossSum {
  at::Tensor sum; ///< fp32 scalar (fp64 for a model in fp64)
  int64_t tokens = 0;
};

/// What the layers keep of a forward pass for its backward. Neither values nor gradients depend on it, to the bit. An
/// adapter reads its input after its forward in the backward of what it returned, and nowhere else.
enum class Checkpointing {
  kNone, ///< everything
  kSelective, ///< all but what is cheap to form again: norms' results, and the MLP's product of gate and up
  kFull, ///< their inputs alone: each layer runs once more
};

/// A causal language model: what training, evaluation and generation ask of one, whatever its family. Parameters have
/// LLaMA's names in transformers (`model.layers.0.self_attn.q_proj.weight`); a family's folders may call them
/// otherwise.
class CausalLMImpl : public torch::nn::Module {
 public:
  explicit CausalLMImpl(const DecoderOptions& options) : options(options) {}

  /// What `compute` reads, where its tensors were or on the CPU. `cached` are the tokens of a cache. A mask is read
  /// where it lies.
  virtual PreparedInput prepare(const ModelInput& input, int64_t cached = 0) const = 0;

  /// The normed hidden states `[batch, seq, hidden]`, or of the chosen tokens alone `[1, chosen, hidden]`, from what
  /// lies on the model's device: the host decides nothing by values, and nothing waits.
  virtual at::Tensor compute(const PreparedInput& input, KeyValueCache* cache = nullptr) = 0;

  /// Logits `[..., vocab]` of normed hidden states `[..., hidden]`.
  virtual at::Tensor logits(const at::Tensor& hidden) = 0;

  /// The sum of the losses of `targets` int64 `[chosen]`, `kIgnoreIndex` or ids, from the states `[chosen, hidden]`
  /// that predict them: a scalar in fp32 (fp64 for fp64).
  virtual at::Tensor loss_of_states(const at::Tensor& states, const at::Tensor& targets) = 0;

  /// What enters the first layer for `input_ids` `[batch, seq]`: `[batch, seq, hidden]`.
  virtual at::Tensor embed(const at::Tensor& input_ids) = 0;

  /// The head's weight `[vocab, hidden]`: the embedding's where tied; dequantised where it is stored so; with the rows
  /// in place that an active `TrainedRows` trains.
  virtual at::Tensor head_weight() const = 0;

  /// What each layer keeps for its backward, from the first to the last.
  virtual std::vector<LayerMemory> layer_memory() const = 0;

  /// Gives a head that is tied to the embedding a projection of its own, named `lm_head`, whose frozen weight shares
  /// the embedding's memory: their adapters differ from then on. Nothing happens where the head is not tied. Throws
  /// `c10::NotImplementedError` for a model that cannot.
  virtual void untie_head() {
    TORCH_CHECK_NOT_IMPLEMENTED(!options.tie_word_embeddings(), "this model's head cannot be untied");
  }

  /// Undoes `untie_head` once neither the embedding nor the head has an adapter; until then nothing happens.
  virtual void tie_head_again() {}

  virtual at::Device device() const {
    return head_weight().device();
  }
  virtual at::ScalarType dtype() const {
    return head_weight().scalar_type();
  }

  /// The normed hidden states of `input`, `[batch, seq, hidden]`.
  at::Tensor hidden_states(const ModelInput& input, KeyValueCache* cache = nullptr);

  /// Those of the tokens `chosen` alone, int64 positions in batch·seq: `[chosen, hidden]`. Behind its attention, the
  /// last layer computes no others.
  at::Tensor hidden_states(const ModelInput& input, const at::Tensor& chosen);

  /// Logits `[batch, seq, vocab]` in the model's dtype.
  at::Tensor forward(const ModelInput& input, KeyValueCache* cache = nullptr);

  /// The cross-entropy of each labelled token from the tokens before it, summed in fp32. `labels` is int64
  /// `[batch, seq]`, unshifted, `kIgnoreIndex` (−100) where no loss is taken; logits exist for labelled tokens alone,
  /// a chunk at a time; all of them at once where an adapter of lm_head is active that is no `TrainedRows`. With labels
  /// on the CPU the program does not wait for a GPU. Throws `c10::IndexError` for a label outside the vocabulary.
  LossSum loss(const ModelInput& input, const at::Tensor& labels);

  /// `loss` in its two halves: what a host makes of a batch, and the sum that the model's device computes from it.
  PreparedLoss prepare_loss(const ModelInput& input, const at::Tensor& labels) const;
  at::Tensor compute_loss(const PreparedLoss& prepared);

  DecoderOptions options; ///< `tie_word_embeddings` becomes false with `untie_head`
  /// What training keeps for backward; `eval` mode keeps everything that a gradient needs.
  Checkpointing checkpointing = Checkpointing::kNone;
  /// Whether the head was tied until `untie_head`.
  bool head_was_tied = false;
};

/// A handle of a model of any family; those of single families convert to it.
class CausalLM : public torch::nn::ModuleHolder<CausalLMImpl> {
 public:
  using torch::nn::ModuleHolder<CausalLMImpl>::ModuleHolder;
  using Impl = CausalLMImpl;

  template <class Family, class = std::enable_if_t<std::is_base_of_v<CausalLMImpl, Family>>>
  CausalLM(const torch::nn::ModuleHolder<Family>& model)
      : torch::nn::ModuleHolder<CausalLMImpl>(std::shared_ptr<CausalLMImpl>(model.ptr())) {}
};

} // namespace rora
