#include <rora/model/decoder.h>

#include "../ops/targets.h"
#include "recomputation.h"
#include "rotary_frequencies.h"

#include <rora/model/trained_rows.h>
#include <rora/ops/attention.h>
#include <rora/ops/cross_entropy.h>

#include <ATen/ATen.h>

#include <algorithm>

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
  TORCH_CHECK_VALUE(
      input.input_ids.dim() == 2 && input.input_ids.numel() > 0, "input_ids is [batch, seq], neither of them 0, not ",
      input.input_ids.sizes());
  if (input.position_ids.defined()) {
    TORCH_CHECK_VALUE(
        input.position_ids.dim() == 2 && input.position_ids.size(1) == input.input_ids.size(1) &&
            (input.position_ids.size(0) == input.input_ids.size(0) || input.position_ids.size(0) == 1),
        "position_ids for input_ids ", input.input_ids.sizes(), " is not ", input.position_ids.sizes());
  }
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

/// The adapters that put keys in front of the rows of a layer.
std::vector<const AttentionAdapter*> active_prefixes(const torch::nn::ModuleListImpl& layers) {
  std::vector<const AttentionAdapter*> prefixes;
  for (const auto& module : layers) {
    const Attention& attention = module->as<DecoderLayerImpl>()->self_attn;
    if (!attention.is_empty() && attention->active_adapter() != nullptr) {
      prefixes.push_back(attention->active_adapter());
    }
  }
  return prefixes;
}

/// How many positions the prefixes take in front of each row. The layers share what turns q and k: throws where they
/// disagree.
int64_t positions_of(const std::vector<const AttentionAdapter*>& prefixes) {
  const auto taken = [](const AttentionAdapter* each) { return each->takes_positions() ? each->prefix_length() : 0; };
  for (const AttentionAdapter* each : prefixes) {
    TORCH_CHECK_VALUE(
        taken(each) == taken(prefixes.front()), "a layer's prefix takes ", taken(each), " positions and another's ",
        taken(prefixes.front()), ": the layers of a model share theirs");
  }
  return prefixes.empty() ? 0 : taken(prefixes.front());
}

/// The rows of a weight over the vocabulary that are trained; null where none are.
const TrainedRows* trained_rows(const ProjectionImpl& projection) {
  return dynamic_cast<const TrainedRows*>(projection.active_adapter());
}

double embedding_multiplier(const DecoderOptions& options, at::ScalarType dtype) {
  const double multiplier = options.embedding_multiplier();
  return options.embedding_multiplier_rounds() ? at::scalar_tensor(multiplier, dtype).item<double>() : multiplier;
}

} // namespace

DecoderImpl::DecoderImpl(const DecoderOptions& options) : options(options) {
  options.validate();
  embed_tokens = register_module("embed_tokens", Embedding(options.vocab_size(), options.hidden_size()));
  layers = register_module("layers", torch::nn::ModuleList());
  for (int64_t layer = 0; layer < options.num_hidden_layers(); ++layer) {
    layers->push_back(DecoderLayer(options, layer));
  }
  norm = register_module("norm", RMSNorm(options.hidden_size(), options.rms_norm_eps(), options.norm_adds_one()));
}

PreparedInput DecoderImpl::prepare(const ModelInput& input, int64_t cached) const {
  check_input(input, cached);
  const auto prefixes = active_prefixes(*layers);
  if (input.attention_mask.defined() && !prefixes.empty()) {
    TORCH_CHECK_VALUE(
        input.attention_mask.numel() == 0 || input.attention_mask.max().item<int64_t>() <= 1,
        "an attention's prefix stands in front of whole rows: a row of several packed sequences cannot have one");
  }
  PreparedInput prepared;
  if (input.inputs_embeds.defined()) {
    prepared.inputs_embeds = input.inputs_embeds;
  } else {
    prepared.input_ids = input.input_ids;
  }
  if (input.attention_mask.defined()) {
    // Boundaries serve rows that are there as a whole; single tokens behind a cache need no copy to find them.
    prepared.sequences = cached == 0 && input.input_ids.size(1) > 1
        ? ops::read_sequences(input.attention_mask, embed_tokens->base().device())
        : ops::Sequences{input.attention_mask};
  }
  prepared.positions = input.position_ids.defined() ? input.position_ids : default_positions(input, cached);
  if (const int64_t taken = positions_of(prefixes); taken > 0) {
    prepared.positions = prepared.positions + taken;
  }
  prepared.frequencies = detail::rotary_frequencies(options, options.rope(), prepared.positions);
  if (options.sliding_rope()) {
    prepared.sliding_frequencies = detail::rotary_frequencies(options, *options.sliding_rope(), prepared.positions);
  }
  return prepared;
}

at::Tensor DecoderImpl::compute(const PreparedInput& input, KeyValueCache* cache, Checkpointing checkpointing) {
  checkpointing = is_training() ? checkpointing : Checkpointing::kNone;
  at::Tensor hidden = input.inputs_embeds.defined() ? input.inputs_embeds : embed_tokens->forward(input.input_ids);
  if (options.embedding_multiplier() != 1.0) {
    hidden = hidden * embedding_multiplier(options, hidden.scalar_type());
  }
  const int64_t seq = hidden.size(1);
  LayerContext context;
  context.sequences = input.sequences;
  const auto rotary = [&](const at::Tensor& frequencies) {
    const auto [cos, sin] = detail::rotary_tables(input.positions, frequencies);
    return RotaryTables{cos.to(hidden.scalar_type()), sin.to(hidden.scalar_type())};
  };
  context.rotary = rotary(input.frequencies);
  context.sliding_rotary = input.sliding_frequencies.defined() ? rotary(input.sliding_frequencies) : context.rotary;
  context.cache = cache;
  context.forms_again = checkpointing == Checkpointing::kSelective;

  ResidualStream stream{hidden};
  for (const auto& module : *layers) {
    auto* layer = module->as<DecoderLayerImpl>();
    if (module == *(layers->end() - 1)) {
      context.chosen = input.chosen;
    }
    if (checkpointing == Checkpointing::kFull) {
      const auto run = [layer, context](const at::Tensor& x) { return layer->forward(x, context); };
      stream = {detail::recomputed(run, stream.sum())};
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

ProjectionImpl& DecoderForCausalLMImpl::head_projection() const {
  return lm_head.is_empty() ? static_cast<ProjectionImpl&>(*model->embed_tokens.ptr()) : *lm_head.ptr();
}

PreparedInput DecoderForCausalLMImpl::prepare(const ModelInput& input, int64_t cached) const {
  return model->prepare(input, cached);
}

at::Tensor DecoderForCausalLMImpl::compute(const PreparedInput& input, KeyValueCache* cache) {
  return model->compute(input, cache, checkpointing);
}

at::Tensor DecoderForCausalLMImpl::logits(const at::Tensor& hidden) {
  ProjectionImpl& head = head_projection();
  const bool plain = lm_head.is_empty() && head.active_adapter() == nullptr && head.weight.defined();
  const at::Tensor logits = plain ? at::linear(hidden, head.weight) : head.forward(hidden);
  return options.logits_scaling() == 1.0 ? logits : logits / options.logits_scaling();
}

at::Tensor DecoderForCausalLMImpl::loss_of_states(const at::Tensor& states, const at::Tensor& targets) {
  const ProjectionImpl& head = head_projection();
  const Adapter* adapter = head.active_adapter();
  const bool by_weight = adapter == nullptr ? head.weight.defined() : trained_rows(head) != nullptr;
  if (!by_weight) {
    const auto wide = states.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    return at::cross_entropy_loss(logits(states).to(wide), targets, {}, at::Reduction::Sum);
  }
  const at::Tensor scaled = options.logits_scaling() == 1.0 ? states : states / options.logits_scaling();
  return ops::detail::cross_entropy_of_checked(scaled, head_weight(), targets);
}

at::Tensor DecoderForCausalLMImpl::embed(const at::Tensor& input_ids) {
  return model->embed_tokens->forward(input_ids);
}

at::Tensor DecoderForCausalLMImpl::head_weight() const {
  const ProjectionImpl& head = head_projection();
  if (const TrainedRows* rows = trained_rows(head)) {
    return rows->weight_of(head);
  }
  return head.weight.defined() ? head.weight : head.base().dense();
}

void DecoderForCausalLMImpl::untie_head() {
  if (lm_head.is_empty()) {
    TORCH_CHECK_VALUE(!model->embed_tokens->merged(), "unmerge the embedding's adapter before untying the head");
    lm_head = register_module("lm_head", Projection(model->embed_tokens->original_weight().detach()));
    lm_head->train(is_training());
    set_tied(false);
  }
}

void DecoderForCausalLMImpl::tie_head_again() {
  if (head_was_tied && lm_head->adapters().empty() && model->embed_tokens->adapters().empty()) {
    unregister_module("lm_head");
    lm_head = nullptr;
    set_tied(true);
  }
}

void DecoderForCausalLMImpl::set_tied(bool tied) {
  head_was_tied = !tied;
  options.tie_word_embeddings(tied);
  model->options.tie_word_embeddings(tied);
}

std::vector<LayerMemory> DecoderForCausalLMImpl::layer_memory() const {
  std::vector<LayerMemory> layers;
  for (const auto& module : *model->layers) {
    layers.push_back(module->as<DecoderLayerImpl>()->memory(checkpointing == Checkpointing::kSelective));
  }
  return layers;
}

at::Device DecoderForCausalLMImpl::device() const {
  return model->embed_tokens->base().device();
}

at::ScalarType DecoderForCausalLMImpl::dtype() const {
  return model->embed_tokens->base().dtype();
}

} // namespace rora
