#pragma once

#include "../launch.h"

#include <kernels/gemm_layout.h>
#include <rora/core/low_rank_matrices.h>

#include <ATen/ATen.h>
#include <ATen/MemoryOverlap.h>
#include <c10/util/FunctionRef.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <vector>

namespace rora::ops::detail {

/// Puts one product on the device; false where it cannot.
using Gemm = c10::function_ref<bool(const kernels::cuda::GemmRequest&)>;

/// Whether `sum_by_gemms` knows these dtypes.
inline bool has_gemm(at::TensorList a, at::TensorList b, const at::Tensor& y) {
  const auto dtype = a[0].scalar_type();
  const auto is_beside_y = [&](const at::Tensor& x) { return x.device() == y.device(); };
  return (dtype == at::kFloat || dtype == at::kBFloat16) &&
      (y.scalar_type() == dtype || y.scalar_type() == at::kFloat) && std::all_of(a.begin(), a.end(), is_beside_y) &&
      std::all_of(b.begin(), b.end(), is_beside_y);
}

inline std::optional<kernels::cuda::GemmMatrix> gemm_matrix(const at::Tensor& x) {
  return kernels::cuda::gemm_matrix(x.const_data_ptr(), x.size(0), x.size(1), x.stride(0), x.stride(1));
}

/// alpha·a·b + beta·y as cuBLASLt is asked for it; none where one of them lies neither by rows nor by columns.
inline std::optional<kernels::cuda::GemmRequest> gemm_request(
    const at::Tensor& y, const at::Tensor& a, const at::Tensor& b, double alpha, double beta, bool tf32) {
  const auto left = gemm_matrix(a), right = gemm_matrix(b), result = gemm_matrix(y);
  if (!left || !right || !result) {
    return std::nullopt;
  }
  kernels::cuda::GemmRequest request;
  request.type = kernel_type(a);
  request.c_type = kernel_type(y);
  request.tf32 = tf32;
  request.rows = y.size(0);
  request.columns = y.size(1);
  request.depth = a.size(1);
  request.a = *left;
  request.b = *right;
  request.c = *result;
  request.alpha = static_cast<float>(alpha);
  request.beta = static_cast<float>(beta);
  return request;
}

/// One product, alpha·a·b + beta·y, by LibTorch.
inline void add_product(at::Tensor& y, const at::Tensor& a, const at::Tensor& b, double alpha, double beta) {
  if (y.scalar_type() == a.scalar_type()) {
    at::addmm_out(y, y, a, b, beta, alpha);
    return;
  }
  // The form that does not round on its way to fp32 is a GPU's alone.
  const bool wide = a.is_cuda() && y.scalar_type() == at::kFloat;
  if (const at::Tensor product = wide ? at::mm(a, b, at::kFloat) : at::mm(a, b); beta == 0.0) {
    y.copy_(product).mul_(alpha);
  } else {
    y.mul_(beta).add_(product, alpha);
  }
}

/// Pairs of matrices to be multiplied and added up.
struct Pairs {
  std::vector<at::Tensor> a, b;
};

/// The pairs, neighbours joined wherever their left sides lie side by side in memory and their right sides one above
/// the other: x·Wᵀ + Ŝ·Bᵀ is one product of (x | Ŝ) and (W | B)ᵀ, a little deeper than the first, in fp32 to the end.
inline Pairs join_pairs(at::TensorList a, at::TensorList b) {
  const auto joined = [](const at::Tensor& matrix, const at::Tensor& next, int64_t dim) {
    std::vector<int64_t> sizes = matrix.sizes().vec();
    sizes[dim] += next.size(dim);
    return matrix.as_strided(sizes, matrix.strides());
  };
  Pairs pairs;
  for (size_t i = 0; i < a.size(); ++i) {
    if (i > 0 && goes_on(pairs.a.back(), a[i], 1) && goes_on(pairs.b.back(), b[i], 0)) {
      pairs.a.back() = joined(pairs.a.back(), a[i], 1);
      pairs.b.back() = joined(pairs.b.back(), b[i], 0);
    } else {
      pairs.a.push_back(a[i]);
      pairs.b.push_back(b[i]);
    }
  }
  return pairs;
}

/// y = scale·Σᵢ aᵢ·bᵢ, or y + that, a GEMM for each pair: the thin products first and the deepest last, as what a
/// product finds in a y of bfloat16 has been rounded. That of one pair, and any sum in a y of fp32, is fp32 to the end.
///
/// The arguments are those of `sum_of_products_`, with dtypes that `has_gemm` allows. y must be writable in place as
/// rows or columns: false, and nothing is done, where it is not.
inline bool sum_by_gemms(
    at::Tensor& y, at::TensorList a, at::TensorList b, double scale, bool accumulate, bool tf32, Gemm gemm) {
  if (!gemm_matrix(y)) {
    return false;
  }
  at::assert_no_internal_overlap(y);
  std::vector<size_t> order(a.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(
      order.begin(), order.end(), [&](size_t left, size_t right) { return a[left].size(1) < a[right].size(1); });
  double beta = accumulate ? 1.0 : 0.0;
  for (const size_t i : order) {
    at::assert_no_overlap(y, a[i]);
    at::assert_no_overlap(y, b[i]);
    if (y.numel() == 0 || a[i].size(1) == 0) {
      continue;
    }
    const at::Tensor left = gemm_matrix(a[i]) ? a[i] : a[i].contiguous();
    const at::Tensor rounded = b[i].to(a[i].scalar_type());
    const at::Tensor right = gemm_matrix(rounded) ? rounded : rounded.contiguous();
    if (!gemm(*gemm_request(y, left, right, scale, beta, tf32))) {
      add_product(y, left, right, scale, beta);
    }
    beta = 1.0;
  }
  if (beta == 0.0) { // nothing was written: all depths are 0
    y.zero_();
  }
  mark_changed(y);
  return true;
}

} // namespace rora::ops::detail
