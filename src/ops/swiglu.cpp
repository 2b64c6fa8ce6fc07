#include <rora/core/operation.h>
#include <rora/ops/swiglu.h>

#include "dtype.h"
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

std::tuple<at::Tensor, at::Tensor> backward_kernel(const at::Tensor& dy, const at::Tensor& gate, const at::Tensor& up) {
  if (!detail::has_kernel(gate, up, dy) || up.scalar_type() != gate.scalar_type() ||
      dy.scalar_type() != gate.scalar_type() || up.sizes() != gate.sizes()) {
    return backward_reference(dy, gate, up);
  }
  const at::Tensor gate_rows = detail::as_rows(gate), up_rows = detail::as_rows(up), dy_rows = detail::as_rows(dy);
  at::Tensor dgate = at::empty(gate.sizes(), gate.options()), dup = at::empty(gate.sizes(), gate.options());
  kernels::SwiGLUParameters p;
  p.type = detail::kernel_type(gate);
  p.size = gate_rows.size(1);
  p.gate = detail::kernel_rows(gate_rows);
  p.up = detail::kernel_rows(up_rows);
  p.dy = detail::kernel_rows(dy_rows);
  p.dgate = {dgate.data_ptr(), p.size};
  p.dup = {dup.data_ptr(), p.size};
  detail::launch(
      gate, &kernels::Kernels::swiglu_backward, &kernels::CudaKernels::swiglu_backward, p, gate_rows.size(0), p.size);
  return {dgate, dup};
}

struct SwiGLUFunction : torch::autograd::Function<SwiGLUFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate, const at::Tensor& up) {
    ctx->save_for_backward({gate, up});
    return detail::call_operation<forward_reference>("rora::swiglu_forward", gate, up);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    detail::refuse_second_derivative("rora::swiglu");
    const auto saved = ctx->get_saved_variables();
    auto [dgate, dup] =
        detail::call_operation<backward_reference>("rora::swiglu_backward", gradients[0], saved[0], saved[1]);
    return {dgate, dup};
  }
};

TORCH_LIBRARY_IMPL(rora, CompositeExplicitAutograd, m) {
  m.impl("swiglu_forward", forward_reference);
  m.impl("swiglu_backward", backward_reference);
}
TORCH_LIBRARY_IMPL(rora, CPU, m) {
  m.impl("swiglu_forward", forward_kernel);
  m.impl("swiglu_backward", backward_kernel);
}
TORCH_LIBRARY_IMPL(rora, CUDA, m) {
  m.impl("swiglu_forward", forward_kernel);
  m.impl("swiglu_backward", backward_kernel);
}
TORCH_LIBRARY_IMPL(rora, CompositeImplicitAutograd, m) {
  m.impl("swiglu", swiglu);
}

} // namespace

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up) {
  return SwiGLUFunction::apply(gate, up);
}

} // namespace rora::ops
