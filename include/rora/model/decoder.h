#pragma once

#include <rora/model/causal_lm.h>
#include <rora/model/decoder_layer.h>
#include <rora/model/decoder_options.h>
#include <rora/model/embedding.h>
#include <rora/model/prepared_input.h>
#include <rora/model/rms_norm.h>

#include <torch/nn/module.h>
#include <torch/nn/modules/container/modulelist.h>

namespace rora {

/// The decoder without its head (transformers' `LlamaModel`).
class DecoderImpl : public torch::nn::Module {
 public:
  explicit DecoderImpl(const DecoderOptions& options);

  /// `CausalLMImpl::prepare`. Throws for rows of several sequences where an attention's adapter puts keys in front of
  /// whole rows.
  PreparedInput prepare(const ModelInput& input, int64_t cached = 0) const;

  /// `CausalLMImpl::compute`; in training, the layers keep for backward what `checkpointing` says.
  at::Tensor compute(
      const PreparedInput& input, KeyValueCache* cache = nullptr, Checkpointing checkpointing = Checkpointing::kNone);

  DecoderOptions options;
  Embedding embed_tokens{nullptr};
  torch::nn::ModuleList layers{nullptr};
  RMSNorm norm{nullptr};
};
TORCH_MODULE(Decoder);

/// A decoder with its language-model head, of the form that `DecoderOptions` say.
class DecoderForCausalLMImpl : public CausalLMImpl {
 public:
  explicit DecoderForCausalLMImpl(const DecoderOptions& options);

  PreparedInput prepare(const ModelInput& input, int64_t cached = 0) const override;
  at::Tensor compute(const PreparedInput& input, KeyValueCache* cache = nullptr) override;
  at::Tensor logits(const at::Tensor& hidden) override;
  at::Tensor loss_of_states(const at::Tensor& states, const at::Tensor& targets) override;
  at::Tensor embed(const at::Tensor& input_ids) override;
  at::Tensor head_weight() const override;
  std::vector<LayerMemory> layer_memory() const override;
  void untie_head() override;
  void tie_head_again() override;
  at::Device device() const override;
  at::ScalarType dtype() const override;

  Decoder model{nullptr};
  Projection lm_head{nullptr}; ///< null where the head is tied to the embedding

 private:
  /// The head, or the embedding that it is tied to.
  ProjectionImpl& head_projection() const;
  void set_tied(bool tied);
};
TORCH_MODULE(DecoderForCausalLM);

} // namespace rora
