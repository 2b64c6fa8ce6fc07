#include <rora/model/decoder.h>

#include "../ops/targets.h"
#include "layer_checkpointing.h"
#include "rotary_frequencies.h"

#include <rora/ops/attention.h>
#include <rora/ops/cross_entropy.h>

#include <ATen/ATen.h>

namespace rora {
namespace {

/// On the mask's device, or on the CPU: which positions are in use can then be seen without waiting for a GPU.
at::Tensor default_positions(const ModelInput& input, int64_t cached) {
  const int64_t seq = input.input_ids.size(1);
  if (input.attention_mask.defined()) {
    return ops::positions_in_sequence(input.attention_mask).slice(1, cached);
  }
  return at::arange(cached, cached + seq, at::kLong).unsqueeze(0);
}

void check_input(const ModelInput& input, int64_t cached) {
  TORCH_CHECK_VALUE(input.input_ids.dim() == 2, "input_ids is [batch, seq], not ", input.input_ids.sizes());
  if (input.attention_mask.defined()) {
    TORCH_CHECK_VALUE(
        input.attention_mask.dim() == 2 && input.attention_mask.size(0) == input.input_ids.size(0) &&
            input.attention_mask.size(1) == cached + input.input_ids.size(1),
        "attention_mask for input_ids ", input.input_ids.sizes(), " after ", cached, " cached tokens is not ",
        input.attention_mask.sizes());
  }
  if (input.inputs_embeds.defined()) {
    TORCH_CHECK_VALUE(
        input.inputs_embeds.dim() == 3 && input.inputs_embeds.size(0) == input.input_ids.size(0) &&
            input.inputs_embeds.size(1) == input.input_ids.size(1),
        "inputs_embeds for input_ids ", input.input_ids.sizes(), " is not ", input.inputs_embeds.sizes());
  }
}

} // namespace

DecoderImpl::DecoderImpl(const DecoderOptions& options) : options(options) {
  options.validate();
  at::Tensor embedding = at::empty({options.vocab_size(), options.hidden_size()});
  embed_tokens = register_module("embed_tokens", torch::nn::Embedding::from_pretrained(embedding));
  layers = register_module("layers", torch::nn::ModuleList());
  for (int64_t layer = 0; layer < options.num_hidden_layers(); ++layer) {
    layers->push_back(DecoderLayer(options, layer));
  }
  norm = register_module("norm", RMSNorm(options.hidden_size(), options.rms_norm_eps()));
}

PreparedInput DecoderImpl::prepare(const ModelInput& input, int64_t cached) const {
  check_input(input, cached);
  PreparedInput prepared;
  if (input.inputs_embeds.defined()) {
    prepared.inputs_embeds = input.inputs_embeds;
  } else {
    prepared.input_ids = input.input_ids;
  }
  if (input.attention_mask.defined()) {
    // Boundaries serve rows that are there as a whole; single tokens behind a cache need no copy to find them.
    prepared.sequences = cached == 0 && input.input_ids.size(1) > 1
        ? ops::read_sequences(input.attention_mask, embed_tokens->weight.device())
        : ops::Sequences{input.attention_mask};
  }
  prepared.positions = input.position_ids.defined() ? input.position_ids : default_positions(input, cached);
  prepared.frequencies = detail::rotary_frequencies(options, prepared.positions);
  return prepared;
}

at::Tensor DecoderImpl::compute(const PreparedInput& input, KeyValueCache* cache, bool checkpoint) {
  at::Tensor hidden = input.inputs_embeds.defined() ? input.inputs_embeds : embed_tokens->forward(input.input_ids);
  const int64_t seq = hidden.size(1);
  LayerContext context;
  context.sequences = input.sequences;
  const auto [cos, sin] = detail::rotary_tables(input.positions, input.frequencies);
  context.cos = cos.to(hidden.scalar_type());
  context.sin = sin.to(hidden.scalar_type());
  context.cache = cache;

  ResidualStream stream{hidden};
  for (const auto& module : *layers) {
    auto* layer = module->as<DecoderLayerImpl>();
    if (module == *(layers->end() - 1)) {
      context.chosen = input.chosen;
    }
    if (checkpoint && is_training()) {
      const auto run = [layer, context](const at::Tensor& x) {
        return layer->forward(x, context);
      };
      stream = {detail::checkpoint(run, stream.sum())};
    } else {
      stream = layer->forward(std::move(stream), context);
    }
  }
  if (cache != nullptr) {
    cache->advance(seq);
  }
  return norm->forward(stream);
}

DecoderForCausalLMImpl::DecoderForCausalLMImpl(const DecoderOptions& options) : CausalLMImpl(options) {
  model = register_module("model", Decoder(options));
  if (!options.tie_word_embeddings()) {
    lm_head = register_module("lm_head", Projection(options.hidden_size(), options.vocab_size()));
  }
}

PreparedInput DecoderForCausalLMImpl::prepare(const ModelInput& input, int64_t cached) const {
  return model->prepare(input, cached);
}

at::Tensor DecoderForCausalLMImpl::compute(const PreparedInput& input, KeyValueCache* cache) {
  return model->compute(input, cache, activation_checkpointing);
}

at::Tensor DecoderForCausalLMImpl::logits(const at::Tensor& hidden) {
  return lm_head.is_empty() ? at::linear(hidden, model->embed_tokens->weight) : lm_head->forward(hidden);
}

at::Tensor DecoderForCausalLMImpl::loss_of_states(const at::Tensor& states, const at::Tensor& targets) {
  if (!lm_head.is_empty() && lm_head->active_adapter() != nullptr) {
    const auto wide = states.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    return at::cross_entropy_loss(lm_head->forward(states).to(wide), targets, {}, at::Reduction::Sum);
  }
  return ops::detail::cross_entropy_of_checked(states, head_weight(), targets);
}

at::Tensor DecoderForCausalLMImpl::embed(const at::Tensor& input_ids) {
  return model->embed_tokens->forward(input_ids);
}

at::Tensor DecoderForCausalLMImpl::head_weight() const {
  return lm_head.is_empty() ? model->embed_tokens->weight : lm_head->weight;
}

} // namespace rora
