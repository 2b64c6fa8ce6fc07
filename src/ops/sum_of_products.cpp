#include <rora/ops/sum_of_products.h>

#include "cpu/launch.h"
#include "dtype.h"

#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace rora::ops {
namespace {

using kernels::ProductParameters;

/// Fewer rows would not pay for packing the right side.
constexpr int64_t kFewestRows = 8;

bool is_even(const at::Tensor& x) {
  return x.stride(0) % 2 == 0 && x.storage_offset() % 2 == 0;
}

/// float and bfloat16 are taken for each other.
bool go_together(at::ScalarType a, at::ScalarType b) {
  return detail::wide_type(a) == detail::wide_type(b);
}

bool can_run(at::TensorList a, at::TensorList b, const at::Tensor& y) {
  const at::ScalarType dtype = a[0].scalar_type();
  if (!detail::has_kernel(a[0]) || !kernels::leads_products(detail::kernel_type(a[0])) || y.size(0) < kFewestRows ||
      y.numel() == 0 || a.size() > ProductParameters::kMaxPairs ||
      (y.scalar_type() != dtype && y.scalar_type() != detail::wide_type(dtype)) ||
      (y.stride(0) != 1 && y.stride(1) != 1)) {
    return false;
  }
  for (size_t i = 0; i < a.size(); ++i) {
    if (!b[i].device().is_cpu() || !detail::has_kernel(b[i]) || !go_together(dtype, b[i].scalar_type()) ||
        a[i].size(1) == 0) {
      return false;
    }
  }
  return true;
}

/// `x` as rows, or as the rows of its transpose; copied where it is neither, and where pairs of bfloat16 along the
/// depth would not lie at even places.
ProductParameters::Matrix matrix_of(at::Tensor x, int64_t depth_dim, bool pairs, std::vector<at::Tensor>& kept) {
  if (pairs && x.size(depth_dim) % 2 != 0) {
    x = at::constant_pad_nd(x, depth_dim == 1 ? at::IntArrayRef{0, 1} : at::IntArrayRef{0, 0, 0, 1});
  }
  ProductParameters::Matrix matrix;
  if (x.stride(1) != 1 && x.stride(0) == 1) {
    matrix.transposed = true;
    x = x.t();
    depth_dim = 1 - depth_dim;
  } else if (x.stride(1) != 1) {
    x = x.contiguous();
  }
  if (pairs && depth_dim == 1 && x.scalar_type() == at::kBFloat16 && !is_even(x)) {
    x = x.clone(at::MemoryFormat::Contiguous);
  }
  matrix.rows = detail::kernel_rows(x);
  matrix.type = detail::kernel_type(x);
  kept.push_back(std::move(x));
  return matrix;
}

/// Divides the product into items, as many for each thread as for the others.
int64_t divide(ProductParameters& p) {
  constexpr int64_t kRowsOfTiles = 24;
  constexpr int64_t kRowsWorthPacking = 256;  // for them, packing a panel costs a few hundredths of multiplying by it
  const int64_t width = kernels::kernels().panel_columns / (p.type == kernels::Type::kDouble ? 2 : 1);
  const int64_t threads = at::get_num_threads();
  const int64_t panels = (p.columns + width - 1) / width;
  const bool even = p.columns % width == 0 && panels % threads == 0;
  p.rows_first = !even && p.rows >= kRowsWorthPacking * threads;
  const int64_t blocks = even ? 1 : p.rows_first ? threads : std::max<int64_t>(1, 4 * threads / panels);
  p.row_block = ((p.rows + blocks - 1) / blocks + kRowsOfTiles - 1) / kRowsOfTiles * kRowsOfTiles;
  return panels * ((p.rows + p.row_block - 1) / p.row_block);
}

at::Tensor& sum_into(
    at::Tensor& y, at::TensorList a, at::TensorList b, double scale, const at::Tensor& column_scale, bool accumulate) {
  ProductParameters p;
  p.type = detail::kernel_type(a[0]);
  p.rows = y.size(0);
  p.columns = y.size(1);
  p.scale = scale;
  p.accumulate = accumulate;
  std::vector<at::Tensor> kept;  // what the parameters point into
  p.c = matrix_of(y, 1, /*pairs=*/false, kept);
  p.column_scale = column_scale.defined() ? column_scale.const_data_ptr() : nullptr;
  const bool pairs = a[0].scalar_type() == at::kBFloat16;
  int64_t depth = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const int64_t own = a[i].size(1) + (pairs ? a[i].size(1) % 2 : 0);
    p.pairs[p.pair_count++] = {matrix_of(a[i], 1, pairs, kept), matrix_of(b[i], 0, pairs, kept), own};
    depth += own;
  }
  const int64_t items = divide(p);
  detail::launch(kernels::kernels().product, p, items, p.rows * p.columns / items * depth / 64);
  return y;
}

at::Tensor& sum_of_products_cpu_(at::Tensor& y, at::TensorList a, at::TensorList b, double scale, bool accumulate) {
  detail::check_products(a, b);
  if (y.sizes() != at::IntArrayRef{a[0].size(0), b[0].size(1)} || !can_run(a, b, y)) {
    return reference::sum_of_products_(y, a, b, scale, accumulate);
  }
  return sum_into(y, a, b, scale, at::Tensor(), accumulate);
}

at::Tensor sum_of_products_cpu(
    at::TensorList a,
    at::TensorList b,
    double scale,
    const std::optional<at::Tensor>& column_scale,
    std::optional<at::ScalarType> dtype) {
  detail::check_products(a, b);
  at::Tensor y = at::empty({a[0].size(0), b[0].size(1)}, a[0].options().dtype(dtype.value_or(a[0].scalar_type())));
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

}  // namespace
}  // namespace rora::ops
