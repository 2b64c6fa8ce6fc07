#pragma once

#include <rora/ops/linear_weight.h>

#include <ATen/ATen.h>

namespace rora::ops {

/// ‖W + s·B·A‖ of each row `[out]`, in fp32 (fp64 where B is): the exact expansion
/// n² = ‖W‖² + 2s·rowsum(B⊙(W·Aᵀ)) + s²·rowsum((B·A·Aᵀ)⊙B), which forms neither B·A nor a second W.
/// `weight_norm_squared` is `row_norm_squared(W)`.
inline at::Tensor dora_norm(
    const LinearWeight& weight,
    const at::Tensor& weight_norm_squared,
    const at::Tensor& a,
    const at::Tensor& b,
    double scale) {
  at::NoGradGuard no_grad;
  const auto wide = weight_norm_squared.scalar_type();
  const at::Tensor wide_a = a.to(wide);
  const at::Tensor wide_b = b.to(wide);
  const at::Tensor product = weight.forward_wide(wide_a).t(); // W·Aᵀ
  const at::Tensor gram = wide_a.mm(wide_a.t());
  const at::Tensor squared = weight_norm_squared + 2.0 * scale * (wide_b * product).sum(1) +
      scale * scale * (wide_b.mm(gram) * wide_b).sum(1);
  return squared.clamp_min(0.0).sqrt();
}

/// ‖W‖² of each row `[out]`, in fp32 (fp64 where W is).
inline at::Tensor row_norm_squared(const LinearWeight& weight) {
  at::NoGradGuard no_grad;
  const at::Tensor dense = weight.dense();
  const auto wide = dense.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return dense.to(wide).square().sum(1);
}

} // namespace rora::ops
