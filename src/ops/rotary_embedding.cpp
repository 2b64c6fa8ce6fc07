#include <rora/ops/rotary_embedding.h>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace rora::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  const auto halves = x.chunk(2, -1);
  const at::Tensor turned = at::cat({-halves[1], halves[0]}, -1);
  return at::addcmul(x * cos, turned, sin);
}

struct RotaryEmbeddingFunction : torch::autograd::Function<RotaryEmbeddingFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
    ctx->save_for_backward({cos, sin});
    return rotate(x, cos, sin);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const auto saved = ctx->get_saved_variables();
    // A rotation's transpose turns the other way.
    return {rotate(gradients[0], saved[0], saved[1].neg()), at::Tensor(), at::Tensor()};
  }
};

} // namespace

at::Tensor rotary_embedding(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  return RotaryEmbeddingFunction::apply(x, cos.to(x.scalar_type()).unsqueeze(1), sin.to(x.scalar_type()).unsqueeze(1));
}

} // namespace rora::ops
