#include <rora/core/dora_norm.h>
#include <rora/core/low_rank_linear.h>
#include <rora/core/low_rank_matrices.h>
#include <rora/core/low_rank_products.h>

#include "dtype.h"
#include "launch.h"
#include "scale_columns.h"

#include <ATen/ATen.h>
#include <torch/library.h>

namespace rora::ops {
namespace {

at::Tensor dropout_kernel(const at::Tensor& x, double p, int64_t seed) {
  if (!detail::has_kernel(x)) {
    return reference::dropout(x, p, seed);
  }
  const at::Tensor dense = x.contiguous();
  at::Tensor y = at::empty(x.sizes(), x.options());
  kernels::DropoutParameters parameters;
  parameters.type = detail::kernel_type(x);
  parameters.count = x.numel();
  parameters.p = p;
  parameters.seed = static_cast<uint64_t>(seed);
  parameters.x = dense.data_ptr();
  parameters.y = y.data_ptr();
  constexpr int64_t kBlock = kernels::DropoutParameters::kBlock;
  detail::launch(
      x, &kernels::Kernels::dropout, &kernels::CudaKernels::dropout, parameters, (x.numel() + kBlock - 1) / kBlock,
      kBlock);
  return y;
}

/// Whether the column kernels read `x` `[rows, columns]` beside `like`.
bool has_column_kernel(const at::Tensor& x, const at::Tensor& like) {
  return detail::has_kernel(x, like) && x.scalar_type() == like.scalar_type() && x.dim() == 2 && x.stride(1) == 1;
}

kernels::ColumnSumParameters column_parameters(const at::Tensor& a) {
  kernels::ColumnSumParameters parameters;
  parameters.type = detail::kernel_type(a);
  parameters.rows = a.size(0);
  parameters.columns = a.size(1);
  parameters.a = detail::kernel_rows(a);
  return parameters;
}

/// Σ over rows of a⊙b, with what else `parameters` ask for.
at::Tensor column_sums(kernels::ColumnSumParameters parameters, const at::Tensor& a, const at::Tensor& b) {
  constexpr int64_t kColumns = kernels::ColumnSumParameters::kColumns;
  at::Tensor sums = at::empty({a.size(1)}, a.options().dtype(detail::wide_type(a.scalar_type())));
  parameters.b = detail::kernel_rows(b);
  parameters.sums = sums.data_ptr();
  at::Tensor part_sums;
  if (a.is_cuda()) {
    part_sums = at::empty({kernels::ColumnSumParameters::parts(a.size(0)), a.size(1)}, sums.options());
    parameters.part_sums = part_sums.data_ptr<float>();
  }
  detail::launch(
      a, &kernels::Kernels::column_sum, &kernels::CudaKernels::column_sum, parameters,
      (a.size(1) + kColumns - 1) / kColumns, a.size(0) * kColumns);
  return sums;
}

at::Tensor magnitude_gradient_kernel(const at::Tensor& dy, const at::Tensor& z) {
  if (!has_column_kernel(dy, z) || !has_column_kernel(z, dy)) {
    return reference::magnitude_gradient(dy, z);
  }
  return column_sums(column_parameters(dy), dy, z);
}

/// Of a GPU alone: LibTorch's product of rows and a row takes twice its floor there.
at::Tensor directed_gradient_into_kernel(
    const at::Tensor& dy, const at::Tensor& scale, const std::optional<at::Tensor>& y, at::Tensor& dz) {
  if (!has_column_kernel(dy, dy) || !detail::has_kernel(dy, scale) || (y && !has_column_kernel(*y, dy)) ||
      !has_column_kernel(dz, dy) || dz.sizes() != dy.sizes()) {
    return reference::directed_gradient_into(dy, scale, y, dz);
  }
  detail::mark_changed(dz);
  const at::Tensor rounded = scale.to(dy.scalar_type()).to(at::kFloat).contiguous();
  kernels::ColumnSumParameters parameters = column_parameters(dy);
  parameters.scale = rounded.const_data_ptr<float>();
  parameters.scaled = detail::kernel_rows(dz);
  if (y) {
    return column_sums(parameters, dy, *y);
  }
  detail::launch_on_cuda(dy, &kernels::CudaKernels::column_sum, parameters, dy.size(1));
  return {};
}

std::tuple<at::Tensor, at::Tensor> directed_gradient_kernel(
    const at::Tensor& dy, const at::Tensor& scale, const std::optional<at::Tensor>& y) {
  at::Tensor dz = at::empty(dy.sizes(), dy.options());
  const at::Tensor sums = directed_gradient_into_kernel(dy, scale, y, dz);
  return {dz, sums};
}

/// Of a GPU alone: on the CPU the magnitude is looked at first.
at::Tensor& zero_magnitude_gradient_kernel_(
    at::Tensor& gradient, const at::Tensor& dy, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& shrunk,
    const at::Tensor& b, const at::Tensor& magnitude, const at::Tensor& norm) {
  const at::ScalarType dtype = dy.scalar_type();
  if (!detail::has_kernel(dy, gradient, x, weight, shrunk, b, magnitude, norm) || x.scalar_type() != dtype ||
      weight.scalar_type() != dtype || shrunk.scalar_type() != dtype || gradient.scalar_type() != at::kFloat ||
      !gradient.is_contiguous()) {
    return reference::zero_magnitude_gradient_(gradient, dy, x, weight, shrunk, b, magnitude, norm);
  }
  const at::Tensor dy_rows = detail::as_rows(dy), x_rows = detail::as_rows(x), weight_rows = detail::as_rows(weight);
  const at::Tensor shrunk_rows = detail::as_rows(shrunk), b_rows = detail::as_rows(b.to(at::kFloat));
  const at::Tensor magnitudes = magnitude.to(at::kFloat).contiguous(), norms = norm.to(at::kFloat).contiguous();
  kernels::ZeroMagnitudeParameters parameters;
  parameters.type = detail::kernel_type(dy);
  parameters.rows = dy.size(0);
  parameters.depth = x.size(1);
  parameters.rank = shrunk.size(1);
  parameters.dy = detail::kernel_rows(dy_rows);
  parameters.x = detail::kernel_rows(x_rows);
  parameters.weight = detail::kernel_rows(weight_rows);
  parameters.shrunk = detail::kernel_rows(shrunk_rows);
  parameters.b = detail::kernel_rows(b_rows);
  parameters.magnitude = magnitudes.const_data_ptr<float>();
  parameters.norm = norms.const_data_ptr<float>();
  parameters.gradient = gradient.mutable_data_ptr<float>();
  detail::launch_on_cuda(dy, &kernels::CudaKernels::zero_magnitude, parameters, dy.size(1));
  return gradient;
}

/// One projection, for callers of the dispatcher: y of x, W and the adapter, with its gradients.
at::Tensor low_rank_linear_operator(
    const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias, const at::Tensor& a,
    const at::Tensor& b, double scale, double dropout, int64_t seed, const std::optional<at::Tensor>& magnitude) {
  LowRankTerm term;
  term.weight = std::make_shared<DenseWeight>(weight.detach());
  term.trainable_weight = weight.requires_grad() ? weight : at::Tensor();
  term.bias = bias.value_or(at::Tensor());
  term.a = a;
  term.b = b;
  term.scale = scale;
  term.dropout = {dropout, static_cast<uint64_t>(seed)};
  if (magnitude && magnitude->defined()) {
    term.magnitude = *magnitude;
    term.norm = dora_norm(*term.weight, row_norm_squared(*term.weight), a.detach(), b.detach(), scale);
  }
  return low_rank_linear(x, {term})[0];
}

TORCH_LIBRARY_IMPL(rora, CompositeExplicitAutograd, m) {
  m.impl("dropout", reference::dropout);
  m.impl("copy_padded_", reference::copy_padded_);
  m.impl("low_rank_shrink", reference::low_rank_shrink);
  m.impl("low_rank_gradient_b", reference::low_rank_gradient_b);
  m.impl("low_rank_gradient_b_into", reference::low_rank_gradient_b_into);
  m.impl("low_rank_gradient_a", reference::low_rank_gradient_a);
  m.impl("low_rank_gradient_x_", reference::low_rank_gradient_x_);
  m.impl("magnitude_gradient", reference::magnitude_gradient);
  m.impl("directed_gradient", reference::directed_gradient);
  m.impl("directed_gradient_into", reference::directed_gradient_into);
  m.impl("zero_magnitude_gradient_", reference::zero_magnitude_gradient_);
}
TORCH_LIBRARY_IMPL(rora, CPU, m) {
  m.impl("dropout", dropout_kernel);
  m.impl("magnitude_gradient", magnitude_gradient_kernel);
}
TORCH_LIBRARY_IMPL(rora, CUDA, m) {
  m.impl("dropout", dropout_kernel);
  m.impl("magnitude_gradient", magnitude_gradient_kernel);
  m.impl("directed_gradient", directed_gradient_kernel);
  m.impl("directed_gradient_into", directed_gradient_into_kernel);
  m.impl("zero_magnitude_gradient_", zero_magnitude_gradient_kernel_);
}
TORCH_LIBRARY_IMPL(rora, CompositeImplicitAutograd, m) {
  m.impl("low_rank_linear", low_rank_linear_operator);
}

} // namespace

void detail::scale_columns_(at::Tensor& y, const at::Tensor& scale) {
  if (!y.is_cuda() || !has_column_kernel(y, y)) {
    y.mul_(scale.to(wide_type(y.scalar_type()))); // multiplied in the wide type and rounded to y's
    return;
  }
  const at::Tensor wide = scale.to(at::kFloat).contiguous();
  kernels::ColumnSumParameters parameters = column_parameters(y);
  parameters.scale = wide.const_data_ptr<float>();
  parameters.scaled = parameters.a;
  launch_on_cuda(y, &kernels::CudaKernels::column_sum, parameters, y.size(1));
}

} // namespace rora::ops
