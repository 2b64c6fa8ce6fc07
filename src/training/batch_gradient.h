#pragma once

#include <rora/model/causal_lm.h>

#include <ATen/ATen.h>

namespace rora::detail {

/// A scalar on the model's device, in the dtype of its losses: what a sum of losses is multiplied by.
inline at::Tensor loss_factor(const CausalLM& model, double value) {
  const auto wide = model->dtype() == at::kDouble ? at::kDouble : at::kFloat;
  return at::full({}, value, at::TensorOptions().device(model->device()).dtype(wide));
}

/// Adds the gradient of factor·(the sum of losses) to the parameters'. Returns the sum. All that is prepared lies on
/// the model's device, where the host looks at nothing.
inline at::Tensor add_gradient(CausalLM model, const PreparedLoss& prepared, const at::Tensor& factor) {
  const at::Tensor sum = model->compute_loss(prepared);
  sum.backward(factor);
  return sum.detach();
}

} // namespace rora::detail
