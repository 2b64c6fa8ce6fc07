#include <rora/core/operation.h>
#include <rora/ops/swiglu.h>

#include "dtype.h"
#include "gradient_place.h"
#include "launch.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <tuple>

namespace rora::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor forward_reference(const at::Tensor& gate, const at::Tensor& up) {
  return at::silu(gate).mul(up);
}

at::Tensor forward_kernel(const at::Tensor& gate, const at::Tensor& up) {
  if (!detail::has_kernel(gate, up) || up.scalar_type() != gate.scalar_type() || up.sizes() != gate.sizes()) {
    return forward_reference(gate, up);
  }
  const at::Tensor gate_rows = detail::as_rows(gate), up_rows = detail::as_rows(up);
  at::Tensor y = at::empty(gate.sizes(), gate.options());
  kernels::SwiGLUParameters p;
  p.type = detail::kernel_type(gate);
  p.size = gate_rows.size(1);
  p.gate = detail::kernel_rows(gate_rows);
  p.up = detail::kernel_rows(up_rows);
  p.y = {y.data_ptr(), p.size};
  detail::launch(gate, &kernels::Kernels::swiglu, &kernels::CudaKernels::swiglu, p, gate_rows.size(0), p.size);
  return y;
}

std::tuple<at::Tensor, at::Tensor> backward_reference(
    const at::Tensor& dy, const at::Tensor& gate, const at::Tensor& up) {
  return {at::silu_backward(dy * up, gate), at::silu(gate).mul(dy)};
}

bool has_backward_kernel(const at::Tensor& dy, const at::Tensor& gate, const at::Tensor& up) {
  return detail::has_kernel(gate, up, dy) && up.scalar_type() == gate.scalar_type() &&
      dy.scalar_type() == gate.scalar_type() && up.sizes() == gate.sizes();
}

/// Into dgate and dup, whose rows are dense and may lie apart.
void run_backward(
    const at::Tensor& dy, const at::Tensor& gate, const at::Tensor& up, const at::Tensor& dgate,
    const at::Tensor& dup) {
  const at::Tensor gate_rows = detail::as_rows(gate), up_rows = detail::as_rows(up), dy_rows = detail::as_rows(dy);
  const at::Tensor dgate_rows = detail::rows_of(dgate), dup_rows = detail::rows_of(dup);
  kernels::SwiGLUParameters p;
  p.type = detail::kernel_type(gate);
  p.size = gate_rows.size(1);
  p.gate = detail::kernel_rows(gate_rows);
  p.up = detail::kernel_rows(up_rows);
  p.dy = detail::kernel_rows(dy_rows);
  p.dgate = detail::kernel_rows(dgate_rows);
  p.dup = detail::kernel_rows(dup_rows);
  detail::launch(
      gate, &kernels::Kernels::swiglu_backward, &kernels::CudaKernels::swiglu_backward, p, gate_rows.size(0), p.size);
}

std::tuple<at::Tensor, at::Tensor> backward_kernel(const at::Tensor& dy, const at::Tensor& gate, const at::Tensor& up) {
  if (!has_backward_kernel(dy, gate, up)) {
    return backward_reference(dy, gate, up);
  }
  const at::Tensor dgate = at::empty(gate.sizes(), gate.options()), dup = at::empty(gate.sizes(), gate.options());
  run_backward(dy, gate, up, dgate, dup);
  return {dgate, dup};
}

void backward_into_reference(
    const at::Tensor& dy, const at::Tensor& gate, const at::Tensor& up, at::Tensor& dgate, at::Tensor& dup) {
  const auto [of_gate, of_up] = backward_reference(dy, gate, up);
  dgate.copy_(of_gate);
  dup.copy_(of_up);
}

void backward_into_kernel(
    const at::Tensor& dy, const at::Tensor& gate, const at::Tensor& up, at::Tensor& dgate, at::Tensor& dup) {
  if (!has_backward_kernel(dy, gate, up) || !detail::takes_rows(dgate, gate) || !detail::takes_rows(dup, gate)) {
    backward_into_reference(dy, gate, up, dgate, dup);
    return;
  }
  run_backward(dy, gate, up, dgate, dup);
  detail::mark_changed(dgate);
  detail::mark_changed(dup);
}

struct SwiGLUFunction : torch::autograd::Function<SwiGLUFunction> {
  static at::Tensor forward(
      AutogradContext* ctx, const at::Tensor& gate, const at::Tensor& up,
      const c10::intrusive_ptr<GradientRows>& gradient_rows) {
    ctx->save_for_backward({gate, up});
    detail::keep_place(ctx, {gradient_rows});
    return detail::call_operation<forward_reference>("rora::swiglu_forward", gate, up);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    detail::refuse_second_derivative("rora::swiglu");
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &dy = gradients[0], &gate = saved[0], &up = saved[1];
    const auto rows = detail::kept_place(ctx).rows;
    at::Tensor dgate = GradientPlace{rows, 0}.like(gate), dup = GradientPlace{rows, 1}.like(up);
    if (dgate.defined() && dup.defined()) {
      detail::call_operation<backward_into_reference>("rora::swiglu_backward_into", dy, gate, up, dgate, dup);
    } else {
      std::tie(dgate, dup) = detail::call_operation<backward_reference>("rora::swiglu_backward", dy, gate, up);
    }
    return {dgate, dup, at::Tensor()};
  }
};

TORCH_LIBRARY_IMPL(rora, CompositeExplicitAutograd, m) {
  m.impl("swiglu_forward", forward_reference);
  m.impl("swiglu_backward", backward_reference);
  m.impl("swiglu_backward_into", backward_into_reference);
}
TORCH_LIBRARY_IMPL(rora, CPU, m) {
  m.impl("swiglu_forward", forward_kernel);
  m.impl("swiglu_backward", backward_kernel);
  m.impl("swiglu_backward_into", backward_into_kernel);
}
TORCH_LIBRARY_IMPL(rora, CUDA, m) {
  m.impl("swiglu_forward", forward_kernel);
  m.impl("swiglu_backward", backward_kernel);
  m.impl("swiglu_backward_into", backward_into_kernel);
}
TORCH_LIBRARY_IMPL(rora, CompositeImplicitAutograd, m) {
  m.impl("swiglu", [](const at::Tensor& gate, const at::Tensor& up) { return swiglu(gate, up); });
}

} // namespace

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up, const c10::intrusive_ptr<GradientRows>& gradient_rows) {
  TORCH_CHECK_VALUE(gate.sizes() == up.sizes(), "gate and up have one size, not ", gate.sizes(), " and ", up.sizes());
  return SwiGLUFunction::apply(gate, up, gradient_rows);
}

} // namespace rora::ops
