#include <rora/training/train_step.h>

#include "../evaluation/batch_input.h"
#include "batch_gradient.h"

#include <rora/core/dropout.h>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/utils.h>

#include <cmath>
#include <string>
#include <utility>

namespace rora {

TrainStep::TrainStep(CausalLM model, ParameterTable& parameters, Optimizer& optimizer, double clip)
    : model_(std::move(model)), parameters_(parameters), optimizer_(optimizer), clip_(clip) {
  TORCH_CHECK_VALUE(clip_ >= 0.0, "clip must not be negative");
}

void TrainStep::set_reducer(std::shared_ptr<Reducer> reducer) {
  reducer_ = std::move(reducer);
}

void TrainStep::set_graphs(StepGraphs* graphs) {
  graphs_ = graphs;
}

void TrainStep::set_total_steps(int64_t total_steps) {
  total_steps_ = total_steps;
}

void TrainStep::add_hook(std::shared_ptr<TrainingHook> hook) {
  for (const auto& each : hooks_) {
    TORCH_CHECK_VALUE(each->name() != hook->name(), "there is a hook named '", hook->name(), "' already");
  }
  hooks_.push_back(std::move(hook));
}

StepContext TrainStep::context(int64_t number, uint64_t seed, double learning_rate) const {
  return {model_, parameters_, optimizer_, number, total_steps_, learning_rate, seed};
}

void TrainStep::queue(const StepBatches& step, double learning_rate) {
  context_.emplace(context(step.number, step.seed, learning_rate));
  places_ = step.places;
  labelled_tokens_ = step.labelled_tokens;
  for (const auto& hook : hooks_) {
    hook->before_forward(*context_);
  }
  const at::Tensor losses = accumulate(*context_, step);
  at::NoGradGuard no_grad;
  const at::Tensor& gradients = parameters_.gradients();
  if (reducer_ != nullptr) {
    reducer_->sum_gradients(gradients);
    reducer_->sum_figures(losses);
  }
  for (const auto& hook : hooks_) {
    hook->after_backward(*context_);
  }
  // The update leaves itself out where it would do harm, so that a GPU need not be waited for before it.
  figures_ = at::cat({losses, parameters_.clip_gradients(clip_).to(at::kDouble).reshape({1})});
  optimizer_.step(learning_rate, figures_.isfinite().logical_not().any().to(at::kFloat));
}

/// Gradients of the step's mean loss into the buffer. Each batch's share is by its labelled tokens. Returns the sums of
/// losses by place, 0 for other workers' places, and with hooks what they added, likewise.
at::Tensor TrainStep::accumulate(const StepContext& context, const StepBatches& step) {
  const auto places = static_cast<size_t>(step.places);
  const at::Tensor none = at::zeros({}, parameters_.values().options().dtype(at::kDouble));
  std::vector<at::Tensor> losses(places * (hooks_.empty() ? 1 : 2), none);
  parameters_.zero_grad();
  for (const PlacedBatch& each : step.batches) {
    if (each.batch.labelled_tokens == 0) {
      continue;
    }
    torch::manual_seed(each.seed);
    const ops::ThreadGenerator generator(each.seed);
    at::Tensor extra;
    const auto place = static_cast<size_t>(each.place);
    losses.at(place) = add_gradient(context, each.batch, step.labelled_tokens, extra);
    if (extra.defined()) {
      losses.at(places + place) = extra.to(none.options());
    }
  }
  return at::stack(losses);
}

/// Returns the batch's sum of losses, fp64. `extra`: what hooks add to the step's loss by this batch.
at::Tensor TrainStep::add_gradient(
    const StepContext& context, const Batch& batch, int64_t labelled_tokens, at::Tensor& extra) {
  if (graphs_ != nullptr) {
    TORCH_CHECK_VALUE(!extra_loss(context).defined(), "a hook that adds to the loss runs without cuda_graph");
    return graphs_->add_gradient(batch, labelled_tokens);
  }
  const at::Tensor factor = detail::loss_factor(model_, 1.0 / static_cast<double>(labelled_tokens));
  const PreparedLoss prepared = model_->prepare_loss(detail::batch_input(batch), batch.labels).on(factor.device());
  const at::Tensor sum = model_->compute_loss(prepared);
  const at::Tensor added = extra_loss(context);
  const double share = static_cast<double>(batch.labelled_tokens) / static_cast<double>(labelled_tokens);
  if (added.defined() && added.requires_grad()) {
    torch::autograd::backward({sum, added}, {factor, at::full_like(added, share)});
  } else {
    sum.backward(factor);
  }
  extra = added.defined() ? share * added.detach() : at::Tensor();
  return sum.detach().to(at::kDouble);
}

at::Tensor TrainStep::extra_loss(const StepContext& context) const {
  at::Tensor sum;
  for (const auto& hook : hooks_) {
    const at::Tensor loss = hook->extra_loss(context);
    TORCH_CHECK_VALUE(
        !loss.defined() || loss.dim() == 0, "the loss of the hook '", hook->name(), "' must be a scalar, not ",
        loss.sizes());
    sum = sum.defined() && loss.defined() ? sum + loss : loss.defined() ? loss : sum;
  }
  return sum;
}

StepFigures TrainStep::finish() {
  TORCH_CHECK(context_.has_value(), "no step is queued");
  const StepContext context = *std::exchange(context_, std::nullopt);
  const at::Tensor host = std::exchange(figures_, at::Tensor()).cpu();
  const auto* values = host.const_data_ptr<double>();
  StepFigures figures;
  for (int64_t place = 0; place < places_ && labelled_tokens_ > 0; ++place) {
    figures.loss += values[place] / static_cast<double>(labelled_tokens_);
  }
  for (int64_t i = places_; i < host.numel() - 1; ++i) {
    figures.extra_loss += values[i];
  }
  figures.grad_norm = values[host.numel() - 1];
  if (!std::isfinite(figures.loss + figures.extra_loss) || !std::isfinite(figures.grad_norm)) {
    --optimizer_.steps; // the update was left out
    throw NotFiniteError(
        "the loss or its gradient is not finite at step " + std::to_string(context.step + 1) +
        ": a lower learning rate or float32 may help");
  }
  at::NoGradGuard no_grad;
  for (const auto& hook : hooks_) {
    hook->after_step(context);
  }
  if (!hooks_.empty()) {
    parameters_.mark_changed();
  }
  return figures;
}

} // namespace rora
