#pragma once

#include <rora/training/adamw.h>

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace rora::detail {

/// The tensors of one update, flat and of one size.
struct AdamWTensors {
  at::Tensor values;
  at::Tensor gradients;
  at::Tensor exp_avg;
  at::Tensor exp_avg_sq;
};

/// AdamW's update number `steps`, from 1, in place, by LibTorch's fused kernel. Where `left_out` is 1 nothing changes.
void fused_adamw(
    const AdamWTensors& tensors, int64_t steps, double learning_rate, const AdamWOptions& options,
    const at::Tensor& left_out);

} // namespace rora::detail
