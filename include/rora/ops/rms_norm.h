#pragma once

#include <ATen/core/Tensor.h>

namespace rora::ops {

/// y = weight ⊙ x/√(mean(x²) + eps) over the last dimension; inside in fp32 (fp64 for fp64), rounded to x's dtype before
/// `weight` multiplies, as in transformers. x `[..., size]`, weight `[size]`.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

} // namespace rora::ops
