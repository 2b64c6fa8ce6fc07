#include <rora/core/low_rank_products.h>
#include <rora/core/operation.h>
#include <rora/ops/rms_norm_shrink.h>

#include "gradient_place.h"
#include "rms_norm.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <utility>

namespace rora::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct RMSNormShrinkFunction : torch::autograd::Function<RMSNormShrinkFunction> {
  static variable_list forward(
      AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& added,
      double eps, const at::Tensor& a, double scale, const GradientPlace& place) {
    ctx->set_materialize_grads(false);
    ctx->saved_data["added"] = added.has_value();
    detail::keep_place(ctx, place);
    auto [sum, y, rstd, shrunk] = detail::call_operation<reference::rms_norm_shrink_forward>(
        "rora::rms_norm_shrink_forward", x, added, weight, eps, a, scale);
    const at::Tensor normed = added ? sum : x;
    ctx->save_for_backward({normed, weight, rstd});
    ctx->mark_non_differentiable({shrunk});
    return {normed, y, shrunk};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    return detail::add_rms_norm_gradients(ctx, gradients, "rora::add_rms_norm_shrink", 7);
  }
};

TORCH_LIBRARY_IMPL(rora, CompositeExplicitAutograd, m) {
  m.impl("rms_norm_shrink_forward", reference::rms_norm_shrink_forward);
}

} // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> reference::rms_norm_shrink_forward(
    const at::Tensor& x, const std::optional<at::Tensor>& added, const at::Tensor& weight, double eps,
    const at::Tensor& a, double scale) {
  auto [sum, y, rstd] = detail::rms_norm_of_sum(x, added, weight, eps);
  at::Tensor shrunk = ops::low_rank_shrink(y.reshape({-1, y.size(-1)}), a, scale);
  return {std::move(sum), std::move(y), std::move(rstd), std::move(shrunk)};
}

NormedAndShrunk add_rms_norm_shrink(
    const at::Tensor& x, const at::Tensor& added, const at::Tensor& weight, double eps, const at::Tensor& a,
    double scale, const GradientPlace& place) {
  const auto given = added.defined() ? std::optional<at::Tensor>(added) : std::nullopt;
  detail::check_rms_norm(x, weight, given);
  variable_list outputs = RMSNormShrinkFunction::apply(x, weight, given, eps, a.detach(), scale, place);
  return {std::move(outputs[0]), std::move(outputs[1]), std::move(outputs[2])};
}

} // namespace rora::ops
