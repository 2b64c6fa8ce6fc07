#pragma once

#include <rora/core/linear_weight.h>
#include <rora/core/operation.h>

#include <ATen/ATen.h>

namespace rora::ops {

namespace reference {

inline at::Tensor dora_norm_rows(
    const at::Tensor& weight_norm_squared,
    const at::Tensor& product,
    const at::Tensor& b,
    const at::Tensor& gram,
    double scale) {
  const at::Tensor wide_b = b.to(weight_norm_squared.scalar_type());
  const at::Tensor squared = weight_norm_squared + 2.0 * scale * (wide_b * product).sum(1) +
      scale * scale * (wide_b.mm(gram) * wide_b).sum(1);
  return squared.clamp_min(0.0).sqrt();
}

} // namespace reference

/// The last step of `dora_norm`: from ‖W‖² `[out]`, W·Aᵀ `[out, rank]`, B `[out, rank]` and A·Aᵀ `[rank, rank]`.
inline at::Tensor dora_norm_rows(
    const at::Tensor& weight_norm_squared,
    const at::Tensor& product,
    const at::Tensor& b,
    const at::Tensor& gram,
    double scale) {
  return detail::call_operation<reference::dora_norm_rows>(
      "rora::dora_norm_rows", weight_norm_squared, product, b, gram, scale);
}

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
  const at::Tensor wide_a = a.to(weight_norm_squared.scalar_type());
  const at::Tensor product = weight.forward_wide(wide_a).t(); // W·Aᵀ
  return dora_norm_rows(weight_norm_squared, product, b, wide_a.mm(wide_a.t()), scale);
}

/// ‖W‖² of each row `[out]`, in fp32 (fp64 where W is).
inline at::Tensor row_norm_squared(const LinearWeight& weight) {
  at::NoGradGuard no_grad;
  const at::Tensor dense = weight.dense();
  const auto wide = dense.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return dense.to(wide).square().sum(1);
}

} // namespace rora::ops
