#include <rora/model/causal_lm.h>

#include "../ops/targets.h"

#include <rora/ops/cross_entropy.h>

#include <ATen/ATen.h>

namespace rora {
namespace {

/// Whether all positions are computed, though not all are labelled: a GPU takes longer to gather the states of nearly
/// all and to scatter their gradients than to carry the others along.
bool computes_all(int64_t labelled, int64_t positions, at::Device device) {
  constexpr int64_t kPositionsForOneWithout = 128;
  return device.is_cuda() && (positions - labelled) * kPositionsForOneWithout <= positions;
}

} // namespace

at::Tensor CausalLMImpl::hidden_states(const ModelInput& input, KeyValueCache* cache) {
  return compute(prepare(input, cache != nullptr ? cache->size() : 0).on(device()), cache);
}

at::Tensor CausalLMImpl::hidden_states(const ModelInput& input, const at::Tensor& chosen) {
  PreparedInput prepared = prepare(input);
  prepared.chosen = chosen;
  return compute(prepared.on(device())).squeeze(0);
}

at::Tensor CausalLMImpl::forward(const ModelInput& input, KeyValueCache* cache) {
  return logits(hidden_states(input, cache));
}

LossSum CausalLMImpl::loss(const ModelInput& input, const at::Tensor& labels) {
  const PreparedLoss prepared = prepare_loss(input, labels);
  return {compute_loss(prepared.on(device())), prepared.tokens};
}

PreparedLoss CausalLMImpl::prepare_loss(const ModelInput& input, const at::Tensor& labels) const {
  TORCH_CHECK_VALUE(
      labels.sizes() == input.input_ids.sizes(), "labels ", labels.sizes(), " are not as long as input_ids ",
      input.input_ids.sizes());
  // On the CPU, so that finding the labelled tokens waits for no GPU. The state of position t−1 predicts the label of
  // position t.
  const at::Tensor targets = at::constant_pad_nd(labels.cpu().slice(1, 1), {0, 1}, kIgnoreIndex).reshape({-1});
  PreparedLoss prepared;
  prepared.input = prepare(input);
  const at::Tensor labelled = (targets != kIgnoreIndex).nonzero().squeeze(1);
  prepared.tokens = labelled.size(0);
  if (computes_all(prepared.tokens, targets.size(0), device())) {
    prepared.targets = targets;
  } else {
    prepared.input.chosen = labelled;
    prepared.targets = targets.index_select(0, labelled);
  }
  ops::detail::check_targets(prepared.targets, options.vocab_size());
  return prepared;
}

at::Tensor CausalLMImpl::compute_loss(const PreparedLoss& prepared) {
  return loss_of_states(compute(prepared.input).flatten(0, 1), prepared.targets);
}

} // namespace rora
