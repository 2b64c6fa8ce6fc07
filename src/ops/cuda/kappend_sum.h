#pragma once

#include "../launch.h"
#include "fastest_form.h"
#include "gemm_sum.h"

#include <kernels/gemm_kappend.h>

#include <ATen/ATen.h>
#include <ATen/MemoryOverlap.h>
#include <c10/util/FunctionRef.h>

#include <algorithm>
#include <optional>
#include <vector>

namespace rora::ops::detail {

/// Puts a K-append product on the device; false where it cannot.
using KAppend = c10::function_ref<bool(const kernels::cuda::KAppendParameters&)>;

/// Asks how a deep and a thin pair are best formed; none: by a GEMM for each.
using ChooseTile = c10::function_ref<std::optional<kernels::cuda::KAppendTile>(
    const kernels::cuda::KAppendParameters& deep, at::TensorList a, at::TensorList b)>;

/// Adds up pairs by a GEMM for each: false, and nothing is done, where it cannot.
using SumByGemms = c10::function_ref<bool(at::Tensor& y, at::TensorList a, at::TensorList b, bool accumulate)>;

/// The pairs of a sum, two of them at least.
struct DividedSum {
  std::vector<at::Tensor> a, b; ///< the deepest pair and the thinnest
  std::vector<at::Tensor> other_a, other_b; ///< the rest
};

inline DividedSum divide_sum(at::TensorList a, at::TensorList b) {
  const auto [thin, deep] = std::minmax_element(
      a.begin(), a.end(), [](const at::Tensor& left, const at::Tensor& right) { return left.size(1) < right.size(1); });
  DividedSum sum{{*deep, *thin}, {b[deep - a.begin()], b[thin - a.begin()]}, {}, {}};
  for (auto each = a.begin(); each != a.end(); ++each) {
    if (each != deep && each != thin) {
      sum.other_a.push_back(*each);
      sum.other_b.push_back(b[each - a.begin()]);
    }
  }
  return sum;
}

/// `x` as rows of bfloat16 that tiles can be copied from; a copy, rounded, where it is none.
inline at::Tensor rows_for_tiles(const at::Tensor& x) {
  using namespace kernels::cuda;
  if (x.scalar_type() == at::kBFloat16) {
    const auto matrix = gemm_matrix(x);
    if (matrix && !matrix->transposed && suits_tile_copy({x.data_ptr(), matrix->stride}, x.size(1))) {
      return x;
    }
  }
  const at::Tensor room = at::empty({x.size(0), padded_to_tile_copy(x.size(1))}, x.options().dtype(at::kBFloat16));
  return room.narrow(1, 0, x.size(1)).copy_(x);
}

/// y = scale·(x·W + s·B), or y + that, of a deep pair and a thin one, without s and B; none where the kernel does not
/// take x, W and y as they are. It is no use for fewer rows than a tile has.
inline std::optional<kernels::cuda::KAppendParameters> deep_parameters(
    const at::Tensor& y, at::TensorList a, at::TensorList b, double scale, bool accumulate) {
  using namespace kernels::cuda;
  constexpr int64_t kFewestRows = 128;
  if (a.size() != 2 || y.size(0) < kFewestRows || y.numel() == 0) {
    return std::nullopt;
  }
  const at::Tensor &x = a[0], &w = b[0];
  for (const at::Tensor* each : {&x, &w, &y}) {
    if (each->scalar_type() != at::kBFloat16) {
      return std::nullopt;
    }
  }
  const auto x_matrix = gemm_matrix(x), w_matrix = gemm_matrix(w), y_matrix = gemm_matrix(y);
  if (!x_matrix || x_matrix->transposed || !w_matrix || !y_matrix || y_matrix->transposed) {
    return std::nullopt;
  }
  KAppendParameters p;
  p.rows = y.size(0);
  p.columns = y.size(1);
  p.depth = x.size(1);
  p.rank = a[1].size(1);
  p.x = {x.data_ptr(), x_matrix->stride};
  p.w = {w.data_ptr(), w_matrix->stride};
  p.y = {y.data_ptr(), y_matrix->stride};
  p.c = p.y;
  p.transposed = w_matrix->transposed;
  p.alpha = static_cast<float>(scale);
  p.beta = accumulate ? 1.0f : 0.0f;
  return suits_deep_pair(p) ? std::optional(p) : std::nullopt;
}

inline SumShape sum_shape(const kernels::cuda::KAppendParameters& p, int64_t device) {
  return {power_of_two_from(p.rows), p.columns, p.depth, p.rank, p.transposed, p.beta != 0.0f, device};
}

/// y = scale·(x·W + s·B), or y + that, of a deep pair and a thin one: in fp32 to the end and rounded once. s and B are
/// copied where no tile can be copied from them. False, and nothing is done, where the kernel does not take the
/// matrices.
inline bool sum_by_kappend(
    at::Tensor& y, at::TensorList a, at::TensorList b, double scale, bool accumulate, kernels::cuda::KAppendTile tile,
    KAppend kappend) {
  auto p = deep_parameters(y, a, b, scale, accumulate);
  if (!p) {
    return false;
  }
  at::assert_no_internal_overlap(y);
  for (size_t i = 0; i < a.size(); ++i) {
    at::assert_no_overlap(y, a[i]);
    at::assert_no_overlap(y, b[i]);
  }
  const at::Tensor left = rows_for_tiles(a[1]), right = rows_for_tiles(p->transposed ? b[1].t() : b[1]);
  p->s = {left.data_ptr(), gemm_matrix(left)->stride};
  p->b = {right.data_ptr(), gemm_matrix(right)->stride};
  p->tile = tile;
  if (!kernels::cuda::suits_kappend(*p) || !kappend(*p)) {
    return false;
  }
  mark_changed(y);
  return true;
}

/// y = scale·Σᵢ aᵢ·bᵢ, or y + that: the deepest pair and the thinnest in one kernel where `choose` gives it a tile,
/// after the others. False, and nothing is done, where no kernel is to be used.
///
/// The arguments are those of `sum_of_products_`, with dtypes that `has_gemm` allows.
inline bool sum_with_kappend(
    at::Tensor& y, at::TensorList a, at::TensorList b, double scale, bool accumulate, ChooseTile choose,
    KAppend kappend, SumByGemms by_gemms) {
  if (a.size() < 2) {
    return false;
  }
  const DividedSum sum = divide_sum(a, b);
  const bool accumulates = accumulate || !sum.other_a.empty();
  const auto deep = deep_parameters(y, sum.a, sum.b, scale, accumulates);
  const auto tile = deep ? choose(*deep, sum.a, sum.b) : std::nullopt;
  if (!tile || (!sum.other_a.empty() && !by_gemms(y, sum.other_a, sum.other_b, accumulate))) {
    return false;
  }
  return sum_by_kappend(y, sum.a, sum.b, scale, accumulates, *tile, kappend) ||
      (!sum.other_a.empty() && by_gemms(y, sum.a, sum.b, /*accumulate=*/true));
}

} // namespace rora::ops::detail
