#include "support/gradcheck.h"

#include <ATen/ATen.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>

namespace rora::testing {
namespace {

at::Tensor weighted_sum(const std::vector<at::Tensor>& outputs) {
  at::Tensor sum = at::zeros({}, at::kDouble);
  for (const at::Tensor& output : outputs) {
    // Weights that depend on the place alone: the same at every evaluation.
    const at::Tensor weights = at::arange(1, output.numel() + 1, at::kDouble).mul(0.7).sin().view(output.sizes());
    sum = sum + (output * weights).sum();
  }
  return sum;
}

} // namespace

double gradient_error(
    const std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>&)>& function,
    std::vector<at::Tensor> inputs) {
  for (at::Tensor& input : inputs) {
    input = input.detach().clone().set_requires_grad(true);
  }
  const auto gradients = torch::autograd::grad({weighted_sum(function(inputs))}, inputs);
  constexpr double kStep = 1e-6;
  double worst = 0.0;
  double largest = 0.0;
  at::NoGradGuard no_grad;
  for (size_t i = 0; i < inputs.size(); ++i) {
    double* values = inputs[i].data_ptr<double>();
    const at::Tensor flat = gradients[i].contiguous().flatten();
    for (int64_t j = 0; j < flat.numel(); ++j) {
      const double kept = values[j];
      values[j] = kept + kStep;
      const double above = weighted_sum(function(inputs)).item<double>();
      values[j] = kept - kStep;
      const double below = weighted_sum(function(inputs)).item<double>();
      values[j] = kept;
      const double found = flat[j].item<double>();
      worst = std::max(worst, std::abs(found - (above - below) / (2.0 * kStep)));
      largest = std::max(largest, std::abs(found));
    }
  }
  return worst / largest;
}

double relative_error(const at::Tensor& a, const at::Tensor& b) {
  TORCH_CHECK_VALUE(a.sizes() == b.sizes(), "tensors of unlike shapes: ", a.sizes(), " and ", b.sizes());
  const at::Tensor wide = b.to(at::kDouble);
  return ((a.to(at::kDouble) - wide).abs().max() / wide.abs().max()).item<double>();
}

} // namespace rora::testing
