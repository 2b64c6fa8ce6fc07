#pragma once

#include <rora/core/gradient_rows.h>

#include <ATen/core/Tensor.h>

#include <tuple>

namespace rora::ops {

/// y = weight ⊙ x/√(mean(x²) + eps) over the last dimension; inside in fp32 (fp64 for fp64), rounded to x's dtype
/// before `weight` multiplies, as in transformers; a weight of a wider dtype multiplies before. x `[..., size]`, weight
/// `[size]`.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

/// sum = x + added and y = rms_norm(sum), in one pass forward and one backward. `added` has x's shape and dtype; where
/// it is undefined, the sum is x. The one gradient that x and `added` have is written into `place` where that is given.
std::tuple<at::Tensor, at::Tensor> add_rms_norm(
    const at::Tensor& x, const at::Tensor& added, const at::Tensor& weight, double eps,
    const GradientPlace& place = {});

} // namespace rora::ops
