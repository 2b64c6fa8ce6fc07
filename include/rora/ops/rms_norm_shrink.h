#pragma once

#include <rora/core/gradient_rows.h>

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace rora::ops {

/// What a norm gives, and the shrink of its y.
struct NormedAndShrunk {
  at::Tensor sum; ///< x + added, or x
  at::Tensor y; ///< rms_norm(sum), in x's shape
  at::Tensor shrunk; ///< Ŝ = s·y·Aᵀ `[tokens, rank]`, for `low_rank_linear`; autograd takes it for a constant
};

/// `add_rms_norm`, and y's shrink in the same pass over y where a GPU has a kernel for it; by two passes anywhere else.
/// `added` may be undefined. A `[rank, size]` has no gradient from here: it has it from the `low_rank_linear` that
/// reads y and Ŝ.
NormedAndShrunk add_rms_norm_shrink(
    const at::Tensor& x, const at::Tensor& added, const at::Tensor& weight, double eps, const at::Tensor& a,
    double scale, const GradientPlace& place = {});

namespace reference {

/// (sum, y, rstd, Ŝ) by the two operators; without `added`, the sum is undefined.
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> rms_norm_shrink_forward(
    const at::Tensor& x, const std::optional<at::Tensor>& added, const at::Tensor& weight, double eps,
    const at::Tensor& a, double scale);

} // namespace reference
} // namespace rora::ops
