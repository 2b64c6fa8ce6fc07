#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace rora {

/// What joins workers that train one model together: each has the whole model, all examples and the same options, and
/// computes its share of each step's batches.
///
/// With W workers and `grad_accum` g a step takes g·W batches, of which the one at place p is that of worker p mod W.
/// What follows from a place (dropout, the batch's weight) is the same whoever computes it. All workers make the same
/// calls in the same order; each call waits for the others.
class Reducer {
 public:
  virtual ~Reducer() = default;

  /// This worker, from 0.
  virtual int64_t rank() const = 0;

  /// W.
  virtual int64_t world_size() const = 0;

  /// Writes into `gradients`, the flat buffer on the model's device, its sum over all workers: the same bits for each.
  virtual void sum_gradients(const at::Tensor& gradients) = 0;

  /// The same for fp64 figures `[n]` on that device: losses, and whether to stop.
  virtual void sum_figures(const at::Tensor& figures) = 0;
};

} // namespace rora
