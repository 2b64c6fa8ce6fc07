#include "fused_adamw.h"

#include <ATen/ATen.h>

#include <optional>

namespace rora::detail {

void fused_adamw(
    const AdamWTensors& tensors, int64_t steps, double learning_rate, const AdamWOptions& options,
    const at::Tensor& left_out) {
  // The kernel corrects the bias by the count of this update, which it does not advance itself. On a GPU it reads the
  // count there.
  const at::Tensor count = at::full({}, static_cast<double>(steps), tensors.values.options().dtype(at::kFloat));
  at::_fused_adamw_(
      {tensors.values}, {tensors.gradients}, {tensors.exp_avg}, {tensors.exp_avg_sq},
      /*max_exp_avg_sqs=*/{}, {count}, learning_rate, options.beta1(), options.beta2(), options.weight_decay(),
      options.eps(),
      /*amsgrad=*/false,
      /*maximize=*/false,
      /*grad_scale=*/std::nullopt,
      /*found_inf=*/left_out.defined() ? std::optional<at::Tensor>(left_out) : std::nullopt);
}

} // namespace rora::detail
