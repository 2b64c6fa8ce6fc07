#pragma once

#include <rora/data/batch.h>
#include <rora/error.h>
#include <rora/model/causal_lm.h>
#include <rora/training/hooks.h>
#include <rora/training/optimizer.h>
#include <rora/training/parameter_table.h>
#include <rora/training/reducer.h>
#include <rora/training/step_graphs.h>

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <vector>

namespace rora {

/// A batch, its place among the batches of its step, and what its dropout follows from.
struct PlacedBatch {
  Batch batch;
  int64_t place = 0;
  uint64_t seed = 0;
};

/// What one optimiser step is made from.
struct StepBatches {
  int64_t number = 0; ///< of the step, from 0
  uint64_t seed = 0; ///< what hooks draw follows from it
  std::vector<PlacedBatch> batches; ///< this worker's
  int64_t places = 0; ///< batches of all workers
  int64_t labelled_tokens = 0; ///< of all workers
};

/// What a step gave.
struct StepFigures {
  double loss = 0.0; ///< the mean over the labelled tokens of all workers, before the update
  double extra_loss = 0.0; ///< what hooks added to it
  double grad_norm = 0.0; ///< before clipping
};

/// The optimiser step of all that trains: gradients of the batches' mean loss → their sum over workers → hooks →
/// clipping → update. Each token counts alike whatever batch it is in, so that the gradient is that of one big batch.
///
/// Dropout follows from the batches' seeds alone: while a step runs the thread draws from a generator of its own, and
/// LibTorch's default generator, which other modules may draw from, is seeded before each batch too.
class TrainStep {
 public:
  /// `parameters` and `optimizer` must outlive it. `clip`: the norm to which gradients are clipped; 0 is off.
  TrainStep(CausalLM model, ParameterTable& parameters, Optimizer& optimizer, double clip);

  /// Without a reducer there is one worker.
  void set_reducer(std::shared_ptr<Reducer> reducer);

  /// Forward and backward by CUDA graphs; null for none.
  void set_graphs(StepGraphs* graphs);

  /// Throws `c10::ValueError` for two of one name.
  void add_hook(std::shared_ptr<TrainingHook> hook);
  const std::vector<std::shared_ptr<TrainingHook>>& hooks() const {
    return hooks_;
  }

  /// Of the run that the steps are of: what hooks are told.
  void set_total_steps(int64_t total_steps);

  /// What hooks are told of a step.
  StepContext context(int64_t number, uint64_t seed, double learning_rate) const;

  /// Has all of the step queued, without waiting for a GPU; on a CPU it is done then. The update leaves itself out
  /// where the loss or the gradient is not finite.
  void queue(const StepBatches& step, double learning_rate);

  /// Waits for the queued step and calls the hooks that follow it. Throws `NotFiniteError` for a loss or gradient
  /// that is not finite: parameters and optimiser are as they were before that step.
  StepFigures finish();

 private:
  at::Tensor accumulate(const StepContext& context, const StepBatches& step);
  at::Tensor add_gradient(const StepContext& context, const Batch& batch, int64_t labelled_tokens, at::Tensor& extra);
  at::Tensor extra_loss(const StepContext& context) const;

  CausalLM model_;
  ParameterTable& parameters_;
  Optimizer& optimizer_;
  double clip_;
  std::shared_ptr<Reducer> reducer_;
  StepGraphs* graphs_ = nullptr;
  std::vector<std::shared_ptr<TrainingHook>> hooks_;
  int64_t total_steps_ = 0;

  at::Tensor figures_; ///< of the queued step, fp64: losses by place, with hooks what they added by place, the norm
  int64_t places_ = 0; ///< of the queued step, as the next two
  int64_t labelled_tokens_ = 0;
  std::optional<StepContext> context_;
};

} // namespace rora
