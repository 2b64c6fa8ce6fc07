#include <rora/training/lora_pro.h>

#include "pair_algebra.h"
#include "unpaired_adamw.h"

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <cmath>

namespace rora {

void LoraProOptions::validate() const {
  adamw_.validate();
  TORCH_CHECK_VALUE(
      damping_ >= 0.0 && std::isfinite(damping_), "damping must be at least 0 and finite, not ", damping_);
}

FactorGradients lora_pro_gradients(
    const at::Tensor& a, const at::Tensor& b, const FactorGradients& g, double scale, double damping) {
  const detail::Spectrum of_a = detail::spectrum(a.mm(a.t())), of_b = detail::spectrum(b.t().mm(b));
  const at::Tensor mu = of_a.values + damping, lambda = of_b.values + damping;
  const at::Tensor b_inverse = of_b.with(detail::pseudo_reciprocal(lambda));
  const at::Tensor natural_a = b_inverse.mm(g.a) / (scale * scale);
  at::Tensor natural_b = g.b.mm(of_a.with(detail::pseudo_reciprocal(mu))) / (scale * scale);
  natural_b = natural_b - b.mm(b_inverse.mm(b.t().mm(natural_b)));
  // In the bases of both spectra the Sylvester equation is one division an element.
  const at::Tensor right = of_b.vectors.t().mm(natural_a.mm(a.t())).mm(of_a.vectors).neg();
  const at::Tensor sums = lambda.unsqueeze(1) + mu.unsqueeze(0);
  const at::Tensor x = of_b.vectors.mm(right * detail::pseudo_reciprocal(sums)).mm(of_a.vectors.t());
  return {natural_a + x.mm(a), natural_b - b.mm(x)};
}

LoraPro::LoraPro(ParameterTable& parameters, const LoraProOptions& options)
    : AdamW(parameters, options.adamw()), damping_(options.damping()) {
  options.validate();
  detail::require_pairs(parameters, "LoRA-Pro");
}

std::map<std::string, double> LoraPro::fingerprint() const {
  std::map<std::string, double> numbers = AdamW::fingerprint();
  numbers["damping"] = damping_;
  return numbers;
}

void LoraPro::update(double learning_rate, const at::Tensor& left_out) {
  at::NoGradGuard no_grad;
  if (detail::is_set(left_out)) {
    return;
  }
  const at::Tensor gradients = detail::changed_gradients(parameters(), [this](const detail::PairGradients& pair) {
    const FactorGradients closest = lora_pro_gradients(pair.a, pair.b, {pair.of_a, pair.of_b}, pair.scale, damping_);
    pair.of_a.copy_(closest.a);
    pair.of_b.copy_(closest.b);
  });
  update_from(gradients, learning_rate, left_out);
}

LoraProFull::LoraProFull(ParameterTable& parameters, const LoraProOptions& options)
    : Optimizer(parameters), options_(options) {
  options.validate();
  detail::require_pairs(parameters, "LoRA-Pro");
  unpaired_ = std::make_unique<detail::UnpairedAdamW>(parameters, options.adamw());
  int64_t size = 0;
  for (const ParameterPair& pair : parameters.pairs()) {
    size += parameters.entries()[pair.b].tensor.size(0) * parameters.entries()[pair.a].tensor.size(1);
  }
  m_ = at::zeros({size}, parameters.values().options());
  v_ = at::zeros_like(m_);
}

LoraProFull::~LoraProFull() = default;

std::vector<std::pair<std::string, at::Tensor>> LoraProFull::state() const {
  std::vector<std::pair<std::string, at::Tensor>> state{{"weight_exp_avg", m_}, {"weight_exp_avg_sq", v_}};
  unpaired_->add_state(state);
  return state;
}

std::map<std::string, double> LoraProFull::fingerprint() const {
  const AdamWOptions& adamw = options_.adamw();
  return {
      {"beta1", adamw.beta1()},
      {"beta2", adamw.beta2()},
      {"eps", adamw.eps()},
      {"weight_decay", adamw.weight_decay()},
      {"damping", options_.damping()}};
}

/// `m` and `v` `[out, in]` are views of the state.
void LoraProFull::update_pair(
    const ParameterPair& pair, const at::Tensor& m, const at::Tensor& v, double learning_rate) {
  const AdamWOptions& adamw = options_.adamw();
  const ParameterEntry& of_a = parameters().entries()[pair.a];
  const ParameterEntry& of_b = parameters().entries()[pair.b];
  const at::Tensor a = ParameterTable::slice(of_a, parameters().values());
  const at::Tensor b = ParameterTable::slice(of_b, parameters().values());
  const at::Tensor& gradients = parameters().gradients();
  const FactorGradients own{ParameterTable::slice(of_a, gradients), ParameterTable::slice(of_b, gradients)};
  const FactorGradients closest = lora_pro_gradients(a, b, own, pair.scale, options_.damping());
  const at::Tensor projected = (b.mm(closest.a) + closest.b.mm(a)) * pair.scale;
  m.mul_(adamw.beta1()).add_(projected, 1.0 - adamw.beta1());
  v.mul_(adamw.beta2()).addcmul_(projected, projected, 1.0 - adamw.beta2());
  const auto t = static_cast<double>(steps);
  const at::Tensor root = (v / (1.0 - std::pow(adamw.beta2(), t))).sqrt_().add_(adamw.eps());
  const at::Tensor direction = m / (1.0 - std::pow(adamw.beta1(), t)) / root;
  const FactorGradients of_direction{b.t().mm(direction) * pair.scale, direction.mm(a.t()) * pair.scale};
  const FactorGradients step = lora_pro_gradients(a, b, of_direction, pair.scale, options_.damping());
  const auto move = [&](const ParameterEntry& entry, const at::Tensor& values, const at::Tensor& by) {
    const ParameterGroup& group = parameters().groups()[entry.group].group;
    const double rate = learning_rate * group.lr_factor;
    values.mul_(1.0 - rate * group.weight_decay.value_or(adamw.weight_decay())).sub_(by, rate);
  };
  move(of_a, a, step.a);
  move(of_b, b, step.b);
}

void LoraProFull::update(double learning_rate, const at::Tensor& left_out) {
  at::NoGradGuard no_grad;
  if (detail::is_set(left_out)) {
    return;
  }
  int64_t taken = 0;
  for (const ParameterPair& pair : parameters().pairs()) {
    const int64_t out = parameters().entries()[pair.b].tensor.size(0);
    const int64_t in = parameters().entries()[pair.a].tensor.size(1);
    const auto part = [&](const at::Tensor& flat) { return flat.narrow(0, taken, out * in).view({out, in}); };
    update_pair(pair, part(m_), part(v_), learning_rate);
    taken += out * in;
  }
  unpaired_->update(parameters(), steps, learning_rate);
}

OptimizerFactory lora_pro(const LoraProOptions& options) {
  return [options](ParameterTable& parameters) -> std::unique_ptr<Optimizer> {
    if (options.full()) {
      return std::make_unique<LoraProFull>(parameters, options);
    }
    return std::make_unique<LoraPro>(parameters, options);
  };
}

} // namespace rora
