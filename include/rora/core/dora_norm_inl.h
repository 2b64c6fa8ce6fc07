#pragma once

#include <rora/core/dora_norm.h>
#include <rora/core/linear_weight.h>
#include <rora/core/operation.h>

#include <ATen/ATen.h>

namespace rora::ops {

namespace reference {

RORA_INLINE at::Tensor dora_norm_rows(
    const at::Tensor& weight_norm_squared, const at::Tensor& product, const at::Tensor& b, const at::Tensor& gram,
    double scale) {
  const at::Tensor wide_b = b.to(weight_norm_squared.scalar_type());
  const at::Tensor squared =
      weight_norm_squared + 2.0 * scale * (wide_b * product).sum(1) + scale * scale * (wide_b.mm(gram) * wide_b).sum(1);
  return squared.clamp_min(0.0).sqrt();
}

} // namespace reference

RORA_INLINE at::Tensor dora_norm_rows(
    const at::Tensor& weight_norm_squared, const at::Tensor& product, const at::Tensor& b, const at::Tensor& gram,
    double scale) {
  return detail::call_operation<reference::dora_norm_rows>(
      "rora::dora_norm_rows", weight_norm_squared, product, b, gram, scale);
}

RORA_INLINE at::Tensor dora_norm(
    const LinearWeight& weight, const at::Tensor& weight_norm_squared, const at::Tensor& a, const at::Tensor& b,
    double scale) {
  at::NoGradGuard no_grad;
  const at::Tensor wide_a = a.to(weight_norm_squared.scalar_type());
  const at::Tensor product = weight.forward_wide(wide_a).t(); // W·Aᵀ
  return dora_norm_rows(weight_norm_squared, product, b, wide_a.mm(wide_a.t()), scale);
}

RORA_INLINE at::Tensor row_norm_squared(const LinearWeight& weight) {
  at::NoGradGuard no_grad;
  const at::Tensor dense = weight.dense();
  const auto wide = dense.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return dense.to(wide).square().sum(1);
}

} // namespace rora::ops
