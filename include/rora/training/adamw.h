#pragma once

#include <rora/training/flat_parameters.h>

#include <ATen/core/Tensor.h>
#include <torch/arg.h>

#include <cstdint>

namespace rora {

struct AdamWOptions {
  TORCH_ARG(double, beta1) = 0.9;
  TORCH_ARG(double, beta2) = 0.999;
  TORCH_ARG(double, eps) = 1e-8;
  TORCH_ARG(double, weight_decay) = 0.0; // adapters are not decayed by default, as in PEFT
};

/// AdamW (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2) with `torch.optim.AdamW`'s semantics, over a flat buffer:
///
///   θ ← θ − lr·λ·θ;  m ← β₁m + (1−β₁)g;  v ← β₂v + (1−β₂)g²;  θ ← θ − lr·m̂/(√v̂ + ε)
class AdamW {
 public:
  AdamW(FlatParameters& parameters, const AdamWOptions& options = {});

  /// One update from the gradients in the buffer. Where `left_out`, an fp32 scalar on the parameters' device, is 1,
  /// nothing changes but the count of updates.
  void step(double learning_rate, const at::Tensor& left_out = {});

  /// m and v, of the buffer's size, and how many updates were made: the whole state.
  at::Tensor exp_avg;
  at::Tensor exp_avg_sq;
  int64_t steps = 0;

 private:
  FlatParameters& parameters_;
  AdamWOptions options_;
};

} // namespace rora
