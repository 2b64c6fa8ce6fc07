#pragma once

#include <ATen/core/Tensor.h>

namespace rora::ops::detail {

/// x·w `[rows, out]` of x in fp32 and w in bf16, in fp32, where products of one dtype alone are fast: x is the sum of
/// two of bf16, of which the second holds what the first leaves, to 16 bits in all. Each element of x is off by 2⁻¹⁷ of
/// itself at most. Both stand in one product, so that w is read once and never copied.
at::Tensor product_of_halves(const at::Tensor& x, const at::Tensor& w);

} // namespace rora::ops::detail

#if !defined(RORA_LINKED)
#include <rora/core/linear_weight_inl.h>
#endif
