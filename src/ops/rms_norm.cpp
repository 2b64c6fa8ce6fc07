#include <rora/ops/operation.h>
#include <rora/ops/rms_norm.h>

#include "dtype.h"
#include "launch.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>
#include <tuple>

namespace rora::ops {
namespace {

using detail::wide_type;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

std::tuple<at::Tensor, at::Tensor> forward_reference(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const at::Tensor wide = x.to(wide_type(x.scalar_type()));
  const at::Tensor rstd = wide.square().mean(-1).add_(eps).rsqrt_();
  return {(wide * rstd.unsqueeze(-1)).to(x.scalar_type()) * weight, rstd};
}

std::tuple<at::Tensor, at::Tensor> forward_kernel(const at::Tensor& x, const at::Tensor& weight, double eps) {
  if (!detail::has_kernel(x, weight) || weight.scalar_type() != x.scalar_type()) {
    return forward_reference(x, weight, eps);
  }
  const at::Tensor rows = detail::as_rows(x);
  const at::Tensor scale = weight.contiguous();
  at::Tensor y = at::empty(x.sizes(), x.options());
  at::Tensor rstd = at::empty(x.sizes().slice(0, x.dim() - 1), x.options().dtype(wide_type(x.scalar_type())));
  kernels::RMSNormParameters p;
  p.type = detail::kernel_type(x);
  p.size = rows.size(1);
  p.eps = eps;
  p.x = detail::kernel_rows(rows);
  p.weight = scale.data_ptr();
  p.y = {y.data_ptr(), p.size};
  p.rstd = rstd.data_ptr();
  detail::launch(x, &kernels::Kernels::rms_norm, p, rows.size(0), p.size);
  return {y, rstd};
}

at::Tensor weight_gradient(
    const at::Tensor& dy, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& rstd) {
  const at::Tensor normed = x.to(rstd.scalar_type()) * rstd.unsqueeze(-1);
  return (dy.to(rstd.scalar_type()) * normed).reshape({-1, weight.size(0)}).sum(0).to(weight.scalar_type());
}

std::tuple<at::Tensor, at::Tensor> backward_reference(
    const at::Tensor& dy,
    const at::Tensor& x,
    const at::Tensor& weight,
    const at::Tensor& rstd,
    std::array<bool, 2> mask) {
  at::Tensor dx;
  if (mask[0]) {
    const at::Tensor spread = rstd.unsqueeze(-1);
    const at::Tensor normed = x.to(rstd.scalar_type()) * spread;
    const at::Tensor scaled = dy.to(rstd.scalar_type()) * weight;
    const at::Tensor mean = (scaled * normed).mean(-1, /*keepdim=*/true);
    dx = scaled.sub(normed * mean).mul(spread).to(x.scalar_type());
  }
  return {dx, mask[1] ? weight_gradient(dy, x, weight, rstd) : at::Tensor()};
}

std::tuple<at::Tensor, at::Tensor> backward_kernel(
    const at::Tensor& dy,
    const at::Tensor& x,
    const at::Tensor& weight,
    const at::Tensor& rstd,
    std::array<bool, 2> mask) {
  if (!detail::has_kernel(x, weight, dy, rstd) || weight.scalar_type() != x.scalar_type() ||
      dy.scalar_type() != x.scalar_type()) {
    return backward_reference(dy, x, weight, rstd, mask);
  }
  at::Tensor dx;
  if (mask[0]) {
    const at::Tensor rows = detail::as_rows(x), dy_rows = detail::as_rows(dy);
    const at::Tensor scale = weight.contiguous();
    dx = at::empty(x.sizes(), x.options());
    kernels::RMSNormParameters p;
    p.type = detail::kernel_type(x);
    p.size = rows.size(1);
    p.x = detail::kernel_rows(rows);
    p.weight = scale.data_ptr();
    p.rstd = rstd.data_ptr();
    p.dy = detail::kernel_rows(dy_rows);
    p.dx = {dx.data_ptr(), p.size};
    detail::launch(x, &kernels::Kernels::rms_norm_backward, p, rows.size(0), p.size);
  }
  return {dx, mask[1] ? weight_gradient(dy, x, weight, rstd) : at::Tensor()};
}

struct RMSNormFunction : torch::autograd::Function<RMSNormFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight, double eps) {
    auto [y, rstd] = detail::call_operation<forward_reference>("rora::rms_norm_forward", x, weight, eps);
    ctx->save_for_backward({x, weight, rstd});
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    detail::refuse_second_derivative("rora::rms_norm");
    const auto saved = ctx->get_saved_variables();
    const std::array<bool, 2> mask{ctx->needs_input_grad(0), ctx->needs_input_grad(1)};
    auto [dx, dweight] = detail::call_operation<backward_reference>(
        "rora::rms_norm_backward", gradients[0], saved[0], saved[1], saved[2], mask);
    return {dx, dweight, at::Tensor()};
  }
};

TORCH_LIBRARY_IMPL(rora, CompositeExplicitAutograd, m) {
  m.impl("rms_norm_forward", forward_reference);
  m.impl("rms_norm_backward", backward_reference);
}
TORCH_LIBRARY_IMPL(rora, CPU, m) {
  m.impl("rms_norm_forward", forward_kernel);
  m.impl("rms_norm_backward", backward_kernel);
}
TORCH_LIBRARY_IMPL(rora, CUDA, m) {
  m.impl("rms_norm_forward", forward_kernel);
  m.impl("rms_norm_backward", backward_kernel);
}
TORCH_LIBRARY_IMPL(rora, CompositeImplicitAutograd, m) {
  m.impl("rms_norm", rms_norm);
}

} // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return RMSNormFunction::apply(x, weight, eps);
}

} // namespace rora::ops
