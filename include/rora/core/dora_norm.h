#pragma once

#include <rora/core/linkage.h>

#include <ATen/core/Tensor.h>

namespace rora::ops {

class LinearWeight;

namespace reference {

at::Tensor dora_norm_rows(
    const at::Tensor& weight_norm_squared, const at::Tensor& product, const at::Tensor& b, const at::Tensor& gram,
    double scale);

} // namespace reference

/// The last step of `dora_norm`: from ‖W‖² `[out]`, W·Aᵀ `[out, rank]`, B `[out, rank]` and A·Aᵀ `[rank, rank]`.
at::Tensor dora_norm_rows(
    const at::Tensor& weight_norm_squared, const at::Tensor& product, const at::Tensor& b, const at::Tensor& gram,
    double scale);

/// ‖W + s·B·A‖ of each row `[out]`, in fp32 (fp64 where B is): the exact expansion
/// n² = ‖W‖² + 2s·rowsum(B⊙(W·Aᵀ)) + s²·rowsum((B·A·Aᵀ)⊙B), which forms neither B·A nor a second W.
/// `weight_norm_squared` is `row_norm_squared(W)`.
at::Tensor dora_norm(
    const LinearWeight& weight, const at::Tensor& weight_norm_squared, const at::Tensor& a, const at::Tensor& b,
    double scale);

/// ‖W‖² of each row `[out]`, in fp32 (fp64 where W is).
at::Tensor row_norm_squared(const LinearWeight& weight);

} // namespace rora::ops

#if !defined(RORA_LINKED)
#include <rora/core/dora_norm_inl.h>
#endif
