#include <rora/ops/cross_entropy.h>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <stdexcept>
#include <string>

namespace rora::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct TokenCrossEntropyFunction : torch::autograd::Function<TokenCrossEntropyFunction> {
  static at::Tensor forward(
      AutogradContext* ctx,
      const at::Tensor& hidden,
      const at::Tensor& weight,
      const at::Tensor& targets,
      int64_t chunk,
      bool needs_hidden,
      bool needs_weight) {
    const auto wide = hidden.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    at::Tensor sum = at::zeros({}, hidden.options().dtype(wide));
    at::Tensor dhidden = needs_hidden ? at::empty_like(hidden) : at::Tensor();
    at::Tensor dweight = needs_weight ? at::zeros(weight.sizes(), weight.options().dtype(wide)) : at::Tensor();
    for (int64_t begin = 0; begin < hidden.size(0); begin += chunk) {
      const int64_t length = std::min(chunk, hidden.size(0) - begin);
      const at::Tensor rows = hidden.narrow(0, begin, length);
      const at::Tensor index = targets.narrow(0, begin, length).unsqueeze(1);
      at::Tensor logits = rows.mm(weight.t()).to(wide);
      const at::Tensor normaliser = logits.logsumexp(1, /*keepdim=*/true);
      sum.add_((normaliser - logits.gather(1, index)).sum());
      if (needs_hidden || needs_weight) {
        // d loss / d logits = softmax(logits) − onehot(target)
        at::Tensor gradient = logits.sub_(normaliser).exp_();
        gradient.scatter_add_(1, index, at::full_like(index, -1, gradient.options()));
        if (needs_weight) {
          dweight.addmm_(gradient.t(), rows.to(wide));
        }
        if (needs_hidden) {
          at::Tensor target_rows = dhidden.narrow(0, begin, length);
          at::mm_out(target_rows, gradient.to(hidden.scalar_type()), weight);
        }
      }
    }
    ctx->save_for_backward({dhidden, dweight});
    return sum;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const auto saved = ctx->get_saved_variables();
    const auto scaled = [&](const at::Tensor& gradient, at::ScalarType dtype) {
      return gradient.defined() ? (gradient * gradients[0].to(gradient.scalar_type())).to(dtype) : at::Tensor();
    };
    return {
        scaled(saved[0], saved[0].defined() ? saved[0].scalar_type() : at::kFloat),
        scaled(saved[1], saved[1].defined() ? saved[1].scalar_type() : at::kFloat),
        at::Tensor(),
        at::Tensor(),
        at::Tensor(),
        at::Tensor()};
  }
};

} // namespace

at::Tensor token_cross_entropy(
    const at::Tensor& hidden,
    const at::Tensor& weight,
    const at::Tensor& targets,
    int64_t chunk) {
  const int64_t vocab = weight.size(0);
  if (targets.numel() > 0) {
    const int64_t least = targets.min().item<int64_t>();
    const int64_t greatest = targets.max().item<int64_t>();
    if (least < 0 || greatest >= vocab) {
      throw std::out_of_range(
          "label " + std::to_string(least < 0 ? least : greatest) + " is outside the vocabulary of " +
          std::to_string(vocab));
    }
  }
  if (chunk <= 0) {
    chunk = std::max<int64_t>(1, (int64_t{64} << 20) / (4 * vocab));
  }
  // Asked here, as inside the node's forward gradients are always off.
  const bool recording = at::GradMode::is_enabled();
  return TokenCrossEntropyFunction::apply(
      hidden, weight, targets, chunk, recording && hidden.requires_grad(), recording && weight.requires_grad());
}

} // namespace rora::ops
