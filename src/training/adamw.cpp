#include <rora/training/adamw.h>

#include <ATen/ATen.h>

#include <optional>

namespace rora {

AdamW::AdamW(FlatParameters& parameters, const AdamWOptions& options)
    : exp_avg(at::zeros_like(parameters.values())),
      exp_avg_sq(at::zeros_like(parameters.values())),
      parameters_(parameters),
      options_(options) {
}

void AdamW::step(double learning_rate, const at::Tensor& left_out) {
  at::NoGradGuard no_grad;
  // The kernel corrects the bias by the count of this update, which it does not advance itself. On a GPU it reads the
  // count there.
  ++steps;
  const at::Tensor count = at::full({}, static_cast<double>(steps), parameters_.values().options().dtype(at::kFloat));
  at::_fused_adamw_(
      {parameters_.values()},
      {parameters_.gradients()},
      {exp_avg},
      {exp_avg_sq},
      /*max_exp_avg_sqs=*/{},
      {count},
      learning_rate,
      options_.beta1(),
      options_.beta2(),
      options_.weight_decay(),
      options_.eps(),
      /*amsgrad=*/false,
      /*maximize=*/false,
      /*grad_scale=*/std::nullopt,
      /*found_inf=*/left_out.defined() ? std::optional<at::Tensor>(left_out) : std::nullopt);
  parameters_.mark_changed();
}

}  // namespace rora
