#include <rora/training/adamw.h>

#include "fused_adamw.h"

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <cmath>

namespace rora {

void AdamWOptions::validate() const {
  TORCH_CHECK_VALUE(beta1_ >= 0.0 && beta1_ < 1.0, "beta1 must be in [0, 1), not ", beta1_);
  TORCH_CHECK_VALUE(beta2_ >= 0.0 && beta2_ < 1.0, "beta2 must be in [0, 1), not ", beta2_);
  TORCH_CHECK_VALUE(eps_ > 0.0 && std::isfinite(eps_), "eps must be positive and finite, not ", eps_);
  TORCH_CHECK_VALUE(
      weight_decay_ >= 0.0 && std::isfinite(weight_decay_), "weight_decay must be at least 0 and finite, not ",
      weight_decay_);
}

AdamW::AdamW(ParameterTable& parameters, const AdamWOptions& options)
    : Optimizer(parameters),
      exp_avg(at::zeros_like(parameters.values())),
      exp_avg_sq(at::zeros_like(parameters.values())),
      options_(options) {
  options.validate();
}

std::vector<std::pair<std::string, at::Tensor>> AdamW::state() const {
  return {{"exp_avg", exp_avg}, {"exp_avg_sq", exp_avg_sq}};
}

std::map<std::string, double> AdamW::fingerprint() const {
  return {
      {"beta1", options_.beta1()},
      {"beta2", options_.beta2()},
      {"eps", options_.eps()},
      {"weight_decay", options_.weight_decay()}};
}

void AdamW::update(double learning_rate, const at::Tensor& left_out) {
  update_from(parameters().gradients(), learning_rate, left_out);
}

void AdamW::update_from(const at::Tensor& gradients, double learning_rate, const at::Tensor& left_out) {
  at::NoGradGuard no_grad;
  for (const ParameterRange& range : parameters().groups()) {
    const auto part = [&](const at::Tensor& flat) { return flat.narrow(0, range.begin, range.size); };
    AdamWOptions options = options_;
    options.weight_decay(range.group.weight_decay.value_or(options_.weight_decay()));
    detail::fused_adamw(
        {part(parameters().values()), part(gradients), part(exp_avg), part(exp_avg_sq)}, steps,
        learning_rate * range.group.lr_factor, options, left_out);
  }
}

} // namespace rora
