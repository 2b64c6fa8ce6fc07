#include <rora/ops/swiglu.h>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace rora::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct SwiGLUFunction : torch::autograd::Function<SwiGLUFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate, const at::Tensor& up) {
    ctx->save_for_backward({gate, up});
    return at::silu(gate).mul_(up);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor& gate = saved[0];
    const at::Tensor& up = saved[1];
    const at::Tensor& dy = gradients[0];
    at::Tensor dgate, dup;
    if (ctx->needs_input_grad(0)) {
      dgate = at::silu_backward(dy * up, gate);
    }
    if (ctx->needs_input_grad(1)) {
      dup = at::silu(gate).mul_(dy);
    }
    return {dgate, dup};
  }
};

} // namespace

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up) {
  return SwiGLUFunction::apply(gate, up);
}

} // namespace rora::ops
