#pragma once

#include <rora/model/causal_lm.h>
#include <rora/training/optimizer.h>
#include <rora/training/parameter_table.h>

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace rora {

/// Where in a run a hook is called.
struct StepContext {
  CausalLM model;
  ParameterTable& parameters;
  Optimizer& optimizer;
  int64_t step = 0; ///< from 0
  int64_t total_steps = 0; ///< of the run; 0 outside of one
  double learning_rate = 0.0; ///< of this step
  uint64_t seed = 0; ///< of this step, the same on every worker: what a hook draws follows from it
};

/// What a method does at a step besides the loss, its gradient and the update: draws a rank, adds a loss, masks,
/// prunes, starts anew. Whatever a later step depends on must be parameters, `state` or follow from the context, so
/// that a resumed run is the uninterrupted one, bit for bit.
///
/// A step calls each hook in the order of the functions below, all hooks in the order in which they were added. With
/// several workers all of them call their own hooks alike; gradients are those of the whole step from `after_backward`
/// on.
class TrainingHook {
 public:
  virtual ~TrainingHook() = default;

  /// What its state and fingerprint are told by in a checkpoint: unique among a run's hooks.
  virtual std::string name() const = 0;

  /// Once, before the first step and before `state` is restored: makes what the hook keeps.
  virtual void begin(const StepContext& context) {}

  /// Before the first batch of a step.
  virtual void before_forward(const StepContext& context) {}

  /// A scalar that is added to the step's loss, or an undefined tensor. Asked for behind the forward of each batch, and
  /// weighted by the batch's share of the step's labelled tokens: the shares add up to 1. Not where CUDA graphs run
  /// forward and backward, which throw for a hook that adds a loss.
  virtual at::Tensor extra_loss(const StepContext& context) {
    return {};
  }

  /// Once the step's gradients are whole, before they are clipped.
  virtual void after_backward(const StepContext& context) {}

  /// After the update, which `context.parameters` has; its gradients are still those that the update was made from. Not
  /// called for an update that was left out. What it changes of the values is seen by the next forward.
  virtual void after_step(const StepContext& context) {}

  /// The step, from 1, from which on values may count as a run's best by validation: a method that takes ranks away as
  /// the run goes on is not finished before.
  virtual int64_t first_best_step() const {
    return 0;
  }

  /// What `state` will take, beside the run's parameters.
  virtual int64_t state_bytes(const ParameterTable& parameters) const {
    return 0;
  }

  /// All tensors that the next step depends on, by name, in their sizes from `begin` on. A resumed run writes into
  /// them.
  virtual std::vector<std::pair<std::string, at::Tensor>> state() const {
    return {};
  }

  /// Every number that shapes what it does, by name: a checkpoint of a run with others is refused.
  virtual std::map<std::string, double> fingerprint() const {
    return {};
  }
};

} // namespace rora
