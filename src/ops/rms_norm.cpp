#include <rora/core/operation.h>
#include <rora/ops/rms_norm.h>

#include "dtype.h"
#include "gradient_place.h"
#include "launch.h"
#include "rms_norm.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>
#include <optional>
#include <tuple>
#include <utility>

namespace rora::ops {
namespace {

using detail::wide_type;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

std::tuple<at::Tensor, at::Tensor> forward_reference(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const at::Tensor wide = x.to(wide_type(x.scalar_type()));
  const at::Tensor rstd = wide.square().mean(-1).add_(eps).rsqrt_();
  const at::Tensor normed = wide * rstd.unsqueeze(-1);
  if (weight.scalar_type() == wide.scalar_type()) {
    return {(normed * weight).to(x.scalar_type()), rstd};
  }
  return {normed.to(x.scalar_type()) * weight, rstd};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> add_forward_reference(
    const at::Tensor& x, const at::Tensor& added, const at::Tensor& weight, double eps) {
  at::Tensor sum = x + added;
  auto [y, rstd] = forward_reference(sum, weight, eps);
  return {std::move(sum), std::move(y), std::move(rstd)};
}

/// What forward has beside its inputs.
struct Forward {
  at::Tensor sum, y, rstd;
};

/// `added` may be undefined; then so is the sum.
Forward run_forward(const at::Tensor& x, const at::Tensor& added, const at::Tensor& weight, double eps) {
  const at::Tensor rows = detail::as_rows(x), scale = weight.contiguous();
  Forward out;
  out.y = at::empty(x.sizes(), x.options());
  out.rstd = at::empty(x.sizes().slice(0, x.dim() - 1), x.options().dtype(wide_type(x.scalar_type())));
  kernels::RMSNormParameters p;
  p.type = detail::kernel_type(x);
  p.size = rows.size(1);
  p.eps = eps;
  p.x = detail::kernel_rows(rows);
  at::Tensor added_rows;
  if (added.defined()) {
    added_rows = detail::as_rows(added);
    out.sum = at::empty(x.sizes(), x.options());
    p.added = detail::kernel_rows(added_rows);
    p.sum = {out.sum.data_ptr(), p.size};
  }
  p.weight = scale.data_ptr();
  p.y = {out.y.data_ptr(), p.size};
  p.rstd = out.rstd.data_ptr();
  detail::launch(x, &kernels::Kernels::rms_norm, &kernels::CudaKernels::rms_norm, p, rows.size(0), p.size);
  return out;
}

std::tuple<at::Tensor, at::Tensor> forward_kernel(const at::Tensor& x, const at::Tensor& weight, double eps) {
  if (!detail::has_kernel(x, weight) || weight.scalar_type() != x.scalar_type()) {
    return forward_reference(x, weight, eps);
  }
  const Forward out = run_forward(x, {}, weight, eps);
  return {out.y, out.rstd};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> add_forward_kernel(
    const at::Tensor& x, const at::Tensor& added, const at::Tensor& weight, double eps) {
  if (!detail::has_kernel(x, weight, added) || weight.scalar_type() != x.scalar_type() ||
      added.scalar_type() != x.scalar_type() || added.sizes() != x.sizes()) {
    return add_forward_reference(x, added, weight, eps);
  }
  const Forward out = run_forward(x, added, weight, eps);
  return {out.sum, out.y, out.rstd};
}

at::Tensor weight_gradient(
    const at::Tensor& dy, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& rstd) {
  const at::Tensor normed = x.to(rstd.scalar_type()) * rstd.unsqueeze(-1);
  return (dy.to(rstd.scalar_type()) * normed).reshape({-1, weight.size(0)}).sum(0).to(weight.scalar_type());
}

std::tuple<at::Tensor, at::Tensor> backward_reference(
    const at::Tensor& dy, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& rstd,
    std::array<bool, 2> mask, const std::optional<at::Tensor>& dsum) {
  at::Tensor dx;
  if (mask[0]) {
    const at::Tensor spread = rstd.unsqueeze(-1);
    const at::Tensor normed = x.to(rstd.scalar_type()) * spread;
    const at::Tensor scaled = dy.to(rstd.scalar_type()) * weight;
    const at::Tensor mean = (scaled * normed).mean(-1, /*keepdim=*/true);
    dx = scaled.sub(normed * mean).mul(spread);
    dx = (dsum ? dx + *dsum : dx).to(x.scalar_type());
  }
  return {dx, mask[1] ? weight_gradient(dy, x, weight, rstd) : at::Tensor()};
}

bool has_backward_kernel(
    const at::Tensor& dy, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& rstd,
    const std::optional<at::Tensor>& dsum) {
  const at::Tensor& more = dsum ? *dsum : dy;
  return detail::has_kernel(x, weight, dy, rstd, more) && weight.scalar_type() == x.scalar_type() &&
      dy.scalar_type() == x.scalar_type() && more.scalar_type() == x.scalar_type() && more.sizes() == x.sizes();
}

/// Into dx, whose rows are dense and may lie apart.
void run_backward(
    const at::Tensor& dy, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& rstd,
    const std::optional<at::Tensor>& dsum, const at::Tensor& dx) {
  const at::Tensor rows = detail::as_rows(x), dy_rows = detail::as_rows(dy);
  const at::Tensor more_rows = dsum ? detail::as_rows(*dsum) : at::Tensor();
  const at::Tensor scale = weight.contiguous(), dx_rows = detail::rows_of(dx);
  kernels::RMSNormParameters p;
  p.type = detail::kernel_type(x);
  p.size = rows.size(1);
  p.x = detail::kernel_rows(rows);
  p.weight = scale.data_ptr();
  p.rstd = rstd.data_ptr();
  p.dy = detail::kernel_rows(dy_rows);
  p.dsum = dsum ? detail::kernel_rows(more_rows) : kernels::Rows();
  p.dx = detail::kernel_rows(dx_rows);
  detail::launch(
      x, &kernels::Kernels::rms_norm_backward, &kernels::CudaKernels::rms_norm_backward, p, rows.size(0), p.size);
}

std::tuple<at::Tensor, at::Tensor> backward_kernel(
    const at::Tensor& dy, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& rstd,
    std::array<bool, 2> mask, const std::optional<at::Tensor>& dsum) {
  if (!has_backward_kernel(dy, x, weight, rstd, dsum)) {
    return backward_reference(dy, x, weight, rstd, mask, dsum);
  }
  at::Tensor dx;
  if (mask[0]) {
    dx = at::empty(x.sizes(), x.options());
    run_backward(dy, x, weight, rstd, dsum, dx);
  }
  return {dx, mask[1] ? weight_gradient(dy, x, weight, rstd) : at::Tensor()};
}

void backward_into_reference(
    const at::Tensor& dy, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& rstd,
    const std::optional<at::Tensor>& dsum, at::Tensor& dx) {
  dx.copy_(std::get<0>(backward_reference(dy, x, weight, rstd, {true, false}, dsum)));
}

void backward_into_kernel(
    const at::Tensor& dy, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& rstd,
    const std::optional<at::Tensor>& dsum, at::Tensor& dx) {
  if (!has_backward_kernel(dy, x, weight, rstd, dsum) || !detail::takes_rows(dx, x)) {
    backward_into_reference(dy, x, weight, rstd, dsum, dx);
    return;
  }
  run_backward(dy, x, weight, rstd, dsum, dx);
  detail::mark_changed(dx);
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
        "rora::rms_norm_backward", gradients[0], saved[0], saved[1], saved[2], mask, std::nullopt);
    return {dx, dweight, at::Tensor()};
  }
};

struct AddRMSNormFunction : torch::autograd::Function<AddRMSNormFunction> {
  static variable_list forward(
      AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& added,
      double eps, const GradientPlace& place) {
    ctx->set_materialize_grads(false);
    ctx->saved_data["added"] = added.has_value();
    detail::keep_place(ctx, place);
    auto [sum, y, rstd] = detail::rms_norm_of_sum(x, added, weight, eps);
    const at::Tensor normed = added ? sum : x;
    ctx->save_for_backward({normed, weight, rstd});
    return {normed, y};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    return detail::add_rms_norm_gradients(ctx, gradients, "rora::add_rms_norm", 5);
  }
};

TORCH_LIBRARY_IMPL(rora, CompositeExplicitAutograd, m) {
  m.impl("rms_norm_forward", forward_reference);
  m.impl("add_rms_norm_forward", add_forward_reference);
  m.impl("rms_norm_backward", backward_reference);
  m.impl("rms_norm_backward_into", backward_into_reference);
}
TORCH_LIBRARY_IMPL(rora, CPU, m) {
  m.impl("rms_norm_forward", forward_kernel);
  m.impl("add_rms_norm_forward", add_forward_kernel);
  m.impl("rms_norm_backward", backward_kernel);
  m.impl("rms_norm_backward_into", backward_into_kernel);
}
TORCH_LIBRARY_IMPL(rora, CUDA, m) {
  m.impl("rms_norm_forward", forward_kernel);
  m.impl("add_rms_norm_forward", add_forward_kernel);
  m.impl("rms_norm_backward", backward_kernel);
  m.impl("rms_norm_backward_into", backward_into_kernel);
}
TORCH_LIBRARY_IMPL(rora, CompositeImplicitAutograd, m) {
  m.impl("rms_norm", rms_norm);
  m.impl("add_rms_norm", [](const at::Tensor& x, const at::Tensor& added, const at::Tensor& weight, double eps) {
    return add_rms_norm(x, added, weight, eps);
  });
}

} // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor> detail::rms_norm_of_sum(
    const at::Tensor& x, const std::optional<at::Tensor>& added, const at::Tensor& weight, double eps) {
  if (added) {
    return call_operation<add_forward_reference>("rora::add_rms_norm_forward", x, *added, weight, eps);
  }
  auto [y, rstd] = call_operation<forward_reference>("rora::rms_norm_forward", x, weight, eps);
  return {at::Tensor(), std::move(y), std::move(rstd)};
}

variable_list detail::add_rms_norm_gradients(
    AutogradContext* ctx, const variable_list& gradients, const char* name, size_t inputs) {
  refuse_second_derivative(name);
  const auto saved = ctx->get_saved_variables();
  const bool added = ctx->saved_data["added"].toBool();
  const at::Tensor &dsum = gradients[0], &dy = gradients[1];
  at::Tensor dx = dsum, dweight;
  if (dy.defined()) {
    const bool needs_dx = ctx->needs_input_grad(0) || (added && ctx->needs_input_grad(2));
    const auto more = dsum.defined() ? std::optional<at::Tensor>(dsum) : std::nullopt;
    dx = needs_dx ? kept_place(ctx).like(saved[0]) : at::Tensor();
    const bool in_place = dx.defined();
    if (in_place) {
      call_operation<backward_into_reference>(
          "rora::rms_norm_backward_into", dy, saved[0], saved[1], saved[2], more, dx);
    }
    const std::array<bool, 2> mask{needs_dx && !in_place, ctx->needs_input_grad(1)};
    if (mask[0] || mask[1]) {
      auto [found, of_weight] =
          call_operation<backward_reference>("rora::rms_norm_backward", dy, saved[0], saved[1], saved[2], mask, more);
      dx = in_place ? dx : found;
      dweight = of_weight;
    }
  }
  variable_list found(inputs);
  found[0] = dx;
  found[1] = dweight;
  found[2] = added ? dx : at::Tensor();
  return found;
}

void detail::check_rms_norm(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& added) {
  TORCH_CHECK_VALUE(
      x.dim() >= 1 && x.is_floating_point() && weight.sizes() == x.sizes().slice(x.dim() - 1),
      "a norm takes x [..., size] of floating point and a weight [size], not ", x.sizes(), " in ", x.scalar_type(),
      " and ", weight.sizes());
  TORCH_CHECK_VALUE(
      !added || added->sizes() == x.sizes(), "what a norm adds to x ", x.sizes(), " has its sizes, not ",
      added->sizes());
}

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  detail::check_rms_norm(x, weight);
  return RMSNormFunction::apply(x, weight, eps);
}

std::tuple<at::Tensor, at::Tensor> add_rms_norm(
    const at::Tensor& x, const at::Tensor& added, const at::Tensor& weight, double eps, const GradientPlace& place) {
  const auto given = added.defined() ? std::optional<at::Tensor>(added) : std::nullopt;
  detail::check_rms_norm(x, weight, given);
  const variable_list outputs = AddRMSNormFunction::apply(x, weight, given, eps, place);
  return {outputs[0], outputs[1]};
}

} // namespace rora::ops
