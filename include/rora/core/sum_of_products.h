#pragma once

#include <rora/core/linkage.h>

#include <ATen/core/Tensor.h>

#include <optional>

namespace rora::ops {

namespace detail {

/// Throws c10::ValueError for lists that are no pairs or sizes that do not fit, and NotImplementedError where a
/// gradient would be asked for.
void check_products(at::TensorList a, at::TensorList b, const std::optional<at::Tensor>& column_scale = std::nullopt);
void check_result(const at::Tensor& y, at::TensorList a, at::TensorList b);

} // namespace detail

/// Products of pairs of matrices added up, in ATen's operations.
namespace reference {

at::Tensor& sum_of_products_(at::Tensor& y, at::TensorList a, at::TensorList b, double scale, bool accumulate);

at::Tensor sum_of_products(
    at::TensorList a, at::TensorList b, double scale, const std::optional<at::Tensor>& column_scale,
    std::optional<at::ScalarType> dtype);

} // namespace reference

/// (scale·Σᵢ aᵢ·bᵢ)⊙column_scale `[rows, columns]` of matrices aᵢ `[rows, depthᵢ]` and bᵢ `[depthᵢ, columns]`: what one
/// product of the a side by side and the b above each other gives, without making either. y = W·x + B·Ŝ is
/// sum_of_products({x, Ŝ}, {Wᵀ, Bᵀ}).
///
/// All a have one dtype; a b of another is rounded to it. The result is of `dtype`, or of that of a. With the CPU's
/// kernel, sums are fp32 (fp64 for fp64) to the end and are rounded once. On a GPU that holds for one pair, for a
/// result in fp32, and for two pairs where one kernel forms both (RORA_CUDA_SUM in the environment asks for it); else
/// each product is added to the rounded sum of those before, the deepest last, and the column scale rounds once more.
/// It has no derivative. Throws for lists that are no pairs, for sizes that do not fit and, where gradients are on, for
/// tensors that require them.
at::Tensor sum_of_products(
    at::TensorList a, at::TensorList b, double scale = 1.0,
    const std::optional<at::Tensor>& column_scale = std::nullopt, std::optional<at::ScalarType> dtype = std::nullopt);

/// The same written into y `[rows, columns]`, or added to it; y shares no memory with the others.
void sum_of_products_(at::Tensor& y, at::TensorList a, at::TensorList b, double scale = 1.0, bool accumulate = true);

} // namespace rora::ops

#if !defined(RORA_LINKED)
#include <rora/core/sum_of_products_inl.h>
#endif
