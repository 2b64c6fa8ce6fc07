#include <rora/training/scaled_gd.h>

#include "pair_algebra.h"

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <cmath>

namespace rora {

void ScaledGDOptions::validate() const {
  adamw_.validate();
  TORCH_CHECK_VALUE(
      damping_ >= 0.0 && std::isfinite(damping_), "damping must be at least 0 and finite, not ", damping_);
}

ScaledGD::ScaledGD(ParameterTable& parameters, const ScaledGDOptions& options)
    : AdamW(parameters, options.adamw()), damping_(options.damping()) {
  options.validate();
  detail::require_pairs(parameters, "ScaledGD");
}

std::map<std::string, double> ScaledGD::fingerprint() const {
  std::map<std::string, double> numbers = AdamW::fingerprint();
  numbers["damping"] = damping_;
  return numbers;
}

void ScaledGD::update(double learning_rate, const at::Tensor& left_out) {
  at::NoGradGuard no_grad;
  if (detail::is_set(left_out)) {
    return;
  }
  const at::Tensor gradients = detail::changed_gradients(parameters(), [this](const detail::PairGradients& pair) {
    pair.of_a.copy_(detail::damped_inverse(pair.b.t().mm(pair.b), damping_).mm(pair.of_a));
    pair.of_b.copy_(pair.of_b.mm(detail::damped_inverse(pair.a.mm(pair.a.t()), damping_)));
  });
  update_from(gradients, learning_rate, left_out);
}

OptimizerFactory scaled_gd(const ScaledGDOptions& options) {
  return [options](ParameterTable& parameters) { return std::make_unique<ScaledGD>(parameters, options); };
}

} // namespace rora
