#include <rora/training/lora_fa.h>

#include "fused_adamw.h"
#include "pair_algebra.h"

#include <rora/core/adapter.h>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <cmath>
#include <memory>

namespace rora {
namespace {

AdamWOptions adamw_options(const LoraFaOptions& options) {
  return AdamWOptions()
      .beta1(options.beta1())
      .beta2(options.beta2())
      .eps(options.eps())
      .weight_decay(options.weight_decay());
}

} // namespace

void LoraFaOptions::validate() const {
  adamw_options(*this).validate();
  TORCH_CHECK_VALUE(
      damping_ >= 0.0 && std::isfinite(damping_), "damping must be at least 0 and finite, not ", damping_);
}

void freeze_a(const torch::nn::Module& model) {
  bool found = false;
  for (const auto& module : model.modules(/*include_self=*/false)) {
    if (const auto adapter = std::dynamic_pointer_cast<Adapter>(module)) {
      for (LowRankPair& pair : adapter->pairs()) {
        if (pair.b.requires_grad()) {
          pair.a.set_requires_grad(false);
          pair.a.mutable_grad().reset();
          found = true;
        }
      }
    }
  }
  TORCH_CHECK_VALUE(found, "there is no adapter whose A could be frozen: LoRA-FA needs pairs of A and B");
}

LoraFa::LoraFa(ParameterTable& parameters, const LoraFaOptions& options)
    : Optimizer(parameters),
      options_(options),
      exp_avg_(at::zeros_like(parameters.values())),
      exp_avg_sq_(at::zeros_like(parameters.values())) {
  options.validate();
  detail::require_wide(parameters, "LoRA-FA");
  TORCH_CHECK_VALUE(parameters.pairs().empty(), "LoRA-FA trains B alone: A is frozen first, by freeze_a");
  at::NoGradGuard no_grad;
  for (const HalfPair& half : parameters.half_pairs()) {
    const ParameterEntry& entry = parameters.entries()[half.trained];
    if (entry.role == ParameterRole::kB) {
      const at::Tensor a = half.frozen.to(entry.tensor.scalar_type());
      const at::Tensor inverse = detail::damped_inverse(a.mm(a.t()), options.damping());
      projections_.push_back({half.trained, inverse / (half.scale * half.scale)});
    }
  }
  TORCH_CHECK_VALUE(!projections_.empty(), "LoRA-FA needs a trained B beside a frozen A, and there is none");
}

std::vector<std::pair<std::string, at::Tensor>> LoraFa::state() const {
  return {{"exp_avg", exp_avg_}, {"exp_avg_sq", exp_avg_sq_}};
}

std::map<std::string, double> LoraFa::fingerprint() const {
  return {
      {"beta1", options_.beta1()},
      {"beta2", options_.beta2()},
      {"eps", options_.eps()},
      {"weight_decay", options_.weight_decay()},
      {"damping", options_.damping()}};
}

void LoraFa::update(double learning_rate, const at::Tensor& left_out) {
  at::NoGradGuard no_grad;
  const at::Tensor gradients = parameters().gradients().clone();
  for (const Projection& each : projections_) {
    const at::Tensor of_b = ParameterTable::slice(parameters().entries()[each.b], gradients);
    of_b.copy_(of_b.mm(each.inverse));
  }
  // √v/√(1−β₂ᵗ) + ε/√(1−β₂ᵗ) is what √v + ε, then corrected, comes to.
  const double correction = std::sqrt(1.0 - std::pow(options_.beta2(), static_cast<double>(steps)));
  const AdamWOptions undecayed = adamw_options(options_).eps(options_.eps() / correction).weight_decay(0.0);
  for (const ParameterRange& range : parameters().groups()) {
    const auto part = [&](const at::Tensor& flat) { return flat.narrow(0, range.begin, range.size); };
    const at::Tensor values = part(parameters().values());
    const double rate = learning_rate * range.group.lr_factor;
    detail::fused_adamw({values, part(gradients), part(exp_avg_), part(exp_avg_sq_)}, steps, rate, undecayed, left_out);
    const double decay = rate * range.group.weight_decay.value_or(options_.weight_decay());
    if (decay == 0.0) {
      continue;
    }
    if (left_out.defined()) {
      values.mul_(1.0 - decay * (1.0 - left_out.to(values.scalar_type())));
    } else {
      values.mul_(1.0 - decay);
    }
  }
}

OptimizerFactory lora_fa(const LoraFaOptions& options) {
  return [options](ParameterTable& parameters) { return std::make_unique<LoraFa>(parameters, options); };
}

} // namespace rora
