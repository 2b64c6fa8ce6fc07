#include <rora/core/sum_of_products.h>

#include "dtype.h"
#include "launch.h"
#include "prepacked_matrix.h"

#include <ATen/ATen.h>
#include <ATen/MemoryOverlap.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

namespace rora::ops {
namespace {

using kernels::ProductParameters;

/// Fewer rows would not pay for packing the right side, unless the result is wider than what LibTorch would give.
constexpr int64_t kFewestRows = 8;

/// float and bfloat16 are taken for each other.
bool go_together(at::ScalarType a, at::ScalarType b) {
  return detail::wide_type(a) == detail::wide_type(b);
}

bool can_run(at::TensorList a, at::TensorList b, int64_t rows, int64_t columns, at::ScalarType result) {
  const at::ScalarType dtype = a[0].scalar_type();
  // An odd depth of bfloat16 becomes two pairs.
  const size_t most = ProductParameters::kMaxPairs / (dtype == at::kBFloat16 ? 2 : 1);
  if (!detail::has_kernel(a[0]) || !kernels::leads_products(detail::kernel_type(a[0])) || columns == 0 || rows == 0 ||
      a.size() > most || (result != dtype && result != detail::wide_type(dtype)) ||
      (rows < kFewestRows && result == dtype)) {
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

/// `x` as rows, or as the rows of its transpose; copied where it is neither, and where twos of bfloat16 along the depth
/// would not lie at multiples of their size.
ProductParameters::Matrix matrix_of(at::Tensor x, int64_t depth_dim, bool in_twos, std::vector<at::Tensor>& kept) {
  constexpr uintptr_t kBytesOfTwo = 4;
  ProductParameters::Matrix matrix;
  matrix.type = detail::kernel_type(x);
  matrix.transposed = x.stride(1) != 1 && x.stride(0) == 1;
  if (!matrix.transposed && x.stride(1) != 1) {
    x = x.contiguous();
  }
  const int64_t dense_dim = matrix.transposed ? 0 : 1;
  int64_t stride = x.stride(1 - dense_dim);
  const bool aligned = stride % 2 == 0 && reinterpret_cast<uintptr_t>(x.const_data_ptr()) % kBytesOfTwo == 0;
  if (in_twos && dense_dim == depth_dim && x.scalar_type() == at::kBFloat16 && !aligned) {
    const at::Tensor rows = matrix.transposed ? x.t() : x;
    stride = rows.size(1) + rows.size(1) % 2;
    x = at::empty({rows.size(0), stride}, x.options()).narrow(1, 0, rows.size(1)).copy_(rows);
  }
  matrix.rows = {x.data_ptr(), stride};
  kept.push_back(std::move(x));
  return matrix;
}

void add_pair(ProductParameters& p, const at::Tensor& a, const at::Tensor& b, std::vector<at::Tensor>& kept) {
  const bool in_twos = a.scalar_type() == at::kBFloat16;
  if (const detail::PrepackedMatrix* packed = detail::prepacked_matrix(b)) {
    if (packed->matrix.scalar_type() == a.scalar_type()) {
      p.pairs[p.pair_count++] = {matrix_of(a, 1, in_twos, kept), {}, a.size(1), packed->panels.const_data_ptr()};
    } else {
      add_pair(p, a, packed->matrix, kept);
    }
    return;
  }
  const int64_t whole = in_twos ? a.size(1) - a.size(1) % 2 : a.size(1);
  if (whole == a.size(1)) {
    p.pairs[p.pair_count++] = {matrix_of(a, 1, in_twos, kept), matrix_of(b, 0, in_twos, kept), whole};
    return;
  }
  if (whole > 0) {
    add_pair(p, a.narrow(1, 0, whole), b.narrow(0, 0, whole), kept);
  }
  // One is left over: beside a zero.
  const at::Tensor last_a = at::constant_pad_nd(a.narrow(1, whole, 1), {0, 1}).contiguous();
  const at::Tensor last_b = at::constant_pad_nd(b.narrow(0, whole, 1), {0, 0, 0, 1}).contiguous();
  add_pair(p, last_a, last_b, kept);
}

/// Divides the product into items, about as many for each thread as for the others, and returns their count.
int64_t divide(ProductParameters& p) {
  constexpr int64_t kRowsWorthPacking = 256; // for them, packing a panel costs a few hundredths of multiplying by it
  constexpr int64_t kItemsOfThread = 4;
  constexpr int64_t kMostRowsOfPackedA = 1024;
  const kernels::Kernels& table = kernels::kernels();
  const int64_t width = table.panel_columns(p.type, p.columns);
  const int64_t threads = at::get_num_threads();
  const int64_t panels = (p.columns + width - 1) / width;
  const bool even = p.columns % width == 0 && panels % threads == 0;
  p.rows_first = !even && p.rows >= kRowsWorthPacking * threads;
  int64_t blocks = even ? 1 : p.rows_first ? threads : std::max<int64_t>(1, kItemsOfThread * threads / panels);
  for (int64_t i = 0; i < p.pair_count; ++i) {
    if (p.pairs[i].a.transposed) {
      blocks = std::max(blocks, p.rows / kMostRowsOfPackedA);
    }
  }
  const int64_t rows = (p.rows + blocks - 1) / blocks;
  p.row_block = (rows + table.tile_rows - 1) / table.tile_rows * table.tile_rows;
  return panels * ((p.rows + p.row_block - 1) / p.row_block);
}

void sum_into(
    const at::Tensor& y, at::TensorList a, at::TensorList b, double scale, const at::Tensor& column_scale,
    bool accumulate) {
  ProductParameters p;
  p.type = detail::kernel_type(a[0]);
  p.rows = y.size(0);
  p.columns = y.size(1);
  p.scale = scale;
  p.accumulate = accumulate;
  p.column_scale = column_scale.defined() ? column_scale.const_data_ptr() : nullptr;
  std::vector<at::Tensor> kept; // what the parameters point into
  p.c = matrix_of(y, 1, /*in_twos=*/false, kept);
  int64_t depth = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    add_pair(p, a[i], b[i], kept);
    depth += a[i].size(1);
  }
  const int64_t items = divide(p);
  constexpr int64_t kProductsOfElement = 64; // as long as `launch` takes for one
  detail::launch_on_cpu(&kernels::Kernels::product, p, items, p.rows * p.columns / items * depth / kProductsOfElement);
}

/// Right sides for the reference, which takes none that are packed.
std::vector<at::Tensor> unpacked(at::TensorList b) {
  std::vector<at::Tensor> matrices;
  for (const at::Tensor& each : b) {
    const detail::PrepackedMatrix* packed = detail::prepacked_matrix(each);
    matrices.push_back(packed != nullptr ? packed->matrix : each);
  }
  return matrices;
}

at::Tensor& sum_of_products_cpu_(at::Tensor& y, at::TensorList a, at::TensorList b, double scale, bool accumulate) {
  detail::check_products(a, b);
  detail::check_result(y, a, b);
  if ((y.stride(0) != 1 && y.stride(1) != 1) || !can_run(a, b, y.size(0), y.size(1), y.scalar_type())) {
    return reference::sum_of_products_(y, a, unpacked(b), scale, accumulate);
  }
  at::assert_no_internal_overlap(y);
  for (size_t i = 0; i < a.size(); ++i) {
    at::assert_no_overlap(y, a[i]);
    if (b[i].has_storage()) {
      at::assert_no_overlap(y, b[i]);
    }
  }
  sum_into(y, a, b, scale, at::Tensor(), accumulate);
  detail::mark_changed(y);
  return y;
}

at::Tensor sum_of_products_cpu(
    at::TensorList a, at::TensorList b, double scale, const std::optional<at::Tensor>& column_scale,
    std::optional<at::ScalarType> dtype) {
  detail::check_products(a, b, column_scale);
  const at::ScalarType result = dtype.value_or(a[0].scalar_type());
  if (!can_run(a, b, a[0].size(0), b[0].size(1), result)) {
    return reference::sum_of_products(a, unpacked(b), scale, column_scale, dtype);
  }
  at::Tensor y = at::empty({a[0].size(0), b[0].size(1)}, a[0].options().dtype(result));
  const at::Tensor columns =
      column_scale ? column_scale->to(detail::wide_type(a[0].scalar_type())).contiguous() : at::Tensor();
  sum_into(y, a, b, scale, columns, /*accumulate=*/false);
  return y;
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
