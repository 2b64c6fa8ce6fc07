#include <rora/ops/rms_norm.h>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace rora::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::ScalarType wide_type(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

struct RMSNormFunction : torch::autograd::Function<RMSNormFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight, double eps) {
    const at::Tensor wide = x.to(wide_type(x));
    const at::Tensor rstd = wide.square().mean(-1, /*keepdim=*/true).add_(eps).rsqrt_();
    ctx->save_for_backward({x, weight, rstd});
    return (wide * rstd).to(x.scalar_type()) * weight;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor& x = saved[0];
    const at::Tensor& weight = saved[1];
    const at::Tensor& rstd = saved[2];
    const at::Tensor normed = x.to(rstd.scalar_type()).mul(rstd);
    const at::Tensor dy = gradients[0].to(rstd.scalar_type());
    at::Tensor dx, dweight;
    if (ctx->needs_input_grad(0)) {
      const at::Tensor scaled = dy * weight;
      const at::Tensor mean = (scaled * normed).mean(-1, /*keepdim=*/true);
      dx = scaled.sub_(normed * mean).mul_(rstd).to(x.scalar_type());
    }
    if (ctx->needs_input_grad(1)) {
      dweight = (dy * normed).reshape({-1, weight.size(0)}).sum(0).to(weight.scalar_type());
    }
    return {dx, dweight, at::Tensor()};
  }
};

} // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return RMSNormFunction::apply(x, weight, eps);
}

} // namespace rora::ops
