#include <rora/ops/sum_of_products.h>

#include "cpu/launch.h"
#include "operator.h"

#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>

namespace rora::ops {
namespace {

using kernels::ProductParameters;

/// Fewer rows would not pay for packing the right side.
constexpr int64_t kFewestRows = 8;

bool can_run(at::TensorList a, at::TensorList b, const at::Tensor& y) {
  const at::ScalarType dtype = a[0].scalar_type();
  if (!detail::has_kernel(a[0]) || !kernels::leads_products(detail::kernel_type(a[0])) || y.size(0) < kFewestRows ||
      y.size(1) == 0 || a.size() > ProductParameters::kMaxPairs ||
      (y.scalar_type() != dtype && y.scalar_type() != detail::wide_type(dtype)) || (y.size(1) > 1 && y.stride(1) != 1)) {
    return false;
  }
  for (size_t i = 0; i < a.size(); ++i) {
    if ((b[i].scalar_type() != dtype && b[i].scalar_type() != detail::wide_type(dtype)) ||
        !b[i].device().is_cpu() || a[i].size(1) == 0) {
      return false;
    }
  }
  return true;
}

bool is_even(const at::Tensor& x) {
  return x.stride(0) % 2 == 0 && x.storage_offset() % 2 == 0;
}

/// `x` with dense rows; bfloat16 multiplies its depth in pairs, for which depth and places in memory are even.
at::Tensor paired_rows(const at::Tensor& x, int64_t depth_dim, bool pairs) {
  at::Tensor rows = x.size(1) > 1 && x.stride(1) != 1 ? x.contiguous() : x;
  if (pairs && x.size(depth_dim) % 2 != 0) {
    rows = at::constant_pad_nd(rows, depth_dim == 1 ? at::IntArrayRef{0, 1} : at::IntArrayRef{0, 0, 0, 1});
  }
  return pairs && depth_dim == 1 && !is_even(rows) ? rows.clone(at::MemoryFormat::Contiguous) : rows;
}

at::Tensor& sum_into(
    at::Tensor& y, at::TensorList a, at::TensorList b, double scale, const at::Tensor& column_scale, bool accumulate) {
  ProductParameters p;
  p.type = detail::kernel_type(a[0]);
  p.rows = y.size(0);
  p.columns = y.size(1);
  p.scale = scale;
  p.accumulate = accumulate;
  p.c_wide = y.scalar_type() != a[0].scalar_type();
  p.c = detail::kernel_rows(y);
  p.column_scale = column_scale.defined() ? column_scale.const_data_ptr() : nullptr;
  const bool pairs = a[0].scalar_type() == at::kBFloat16;
  std::vector<at::Tensor> kept; // what the parameters point into
  int64_t depth = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    ProductParameters::Pair& pair = p.pairs[p.pair_count++];
    const at::Tensor left = paired_rows(a[i], 1, pairs);
    pair.b_transposed = b[i].stride(0) == 1 && b[i].stride(1) != 1;
    const at::Tensor right =
        pair.b_transposed ? paired_rows(b[i].t(), 1, pairs) : paired_rows(b[i], 0, pairs);
    pair.b_wide = right.scalar_type() != a[0].scalar_type();
    pair.a = detail::kernel_rows(left);
    pair.b = detail::kernel_rows(right);
    pair.depth = left.size(1);
    depth += pair.depth;
    kept.insert(kept.end(), {left, right});
  }
  // Enough items for every thread, yet none so small that packing outweighs it.
  const kernels::Kernels& table = kernels::kernels();
  const int64_t strip = p.type == kernels::Type::kDouble ? table.strip_columns / 2 : table.strip_columns;
  const int64_t strips = (p.columns + strip - 1) / strip;
  const int64_t items = 4 * static_cast<int64_t>(at::get_num_threads());
  constexpr int64_t kRowsOfTiles = 24;
  const int64_t blocks = std::max<int64_t>(1, items / strips);
  p.row_block = ((p.rows + blocks - 1) / blocks + kRowsOfTiles - 1) / kRowsOfTiles * kRowsOfTiles;
  const int64_t row_blocks = (p.rows + p.row_block - 1) / p.row_block;
  detail::launch(table.product, p, strips * row_blocks, std::min(p.row_block, p.rows) * strip * depth / 64);
  return y;
}

at::Tensor& sum_of_products_cpu_(
    at::Tensor& y, at::TensorList a, at::TensorList b, double scale, bool accumulate) {
  detail::check_products(a, b);
  if (y.sizes() != at::IntArrayRef{a[0].size(0), b[0].size(1)} || !can_run(a, b, y)) {
    return reference::sum_of_products_(y, a, b, scale, accumulate);
  }
  return sum_into(y, a, b, scale, at::Tensor(), accumulate);
}

at::Tensor sum_of_products_cpu(
    at::TensorList a, at::TensorList b, double scale, const std::optional<at::Tensor>& column_scale,
    std::optional<at::ScalarType> dtype) {
  detail::check_products(a, b);
  at::Tensor y = at::empty(
      {a[0].size(0), b[0].size(1)}, a[0].options().dtype(dtype.value_or(a[0].scalar_type())));
  if (!can_run(a, b, y)) {
    return reference::sum_of_products(a, b, scale, column_scale, dtype);
  }
  const at::Tensor columns =
      column_scale ? column_scale->to(detail::wide_type(a[0].scalar_type())).contiguous() : at::Tensor();
  return sum_into(y, a, b, scale, columns, /*accumulate=*/false);
}

TORCH_LIBRARY_IMPL(rora, CompositeExplicitAutograd, m) {
  m.impl("sum_of_products", reference::sum_of_products);
  m.impl("sum_of_products_", reference::sum_of_products_);
}
TORCH_LIBRARY_IMPL(rora, CPU, m) {
  m.impl("sum_of_products", sum_of_products_cpu);
  m.impl("sum_of_products_", sum_of_products_cpu_);
}

} // namespace
} // namespace rora::ops
