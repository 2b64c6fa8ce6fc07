#pragma once

#include <rora/core/operation.h>
#include <rora/core/sum_of_products.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>

namespace rora::ops {

namespace detail {

RORA_INLINE void check_products(at::TensorList a, at::TensorList b, const std::optional<at::Tensor>& column_scale) {
  TORCH_CHECK_VALUE(
      !a.empty() && a.size() == b.size(), a.size(), " left and ", b.size(), " right matrices are no pairs");
  for (size_t i = 0; i < a.size(); ++i) {
    TORCH_CHECK_VALUE(
        a[i].dim() == 2 && b[i].dim() == 2 && a[i].size(1) == b[i].size(0) && a[i].size(0) == a[0].size(0) &&
            b[i].size(1) == b[0].size(1) && a[i].scalar_type() == a[0].scalar_type(),
        "product ", i, ", ", a[i].sizes(), " by ", b[i].sizes(), " of ", a[i].scalar_type(), ", does not go with ",
        a[0].sizes(), " by ", b[0].sizes(), " of ", a[0].scalar_type());
    TORCH_CHECK_NOT_IMPLEMENTED(
        !at::GradMode::is_enabled() || !(a[i].requires_grad() || b[i].requires_grad()),
        "rora::sum_of_products has no derivative");
  }
  TORCH_CHECK_VALUE(
      !column_scale || (column_scale->dim() == 1 && column_scale->size(0) == b[0].size(1)), "a column scale for ",
      b[0].size(1), " columns is not ", column_scale->sizes());
}

RORA_INLINE void check_result(const at::Tensor& y, at::TensorList a, at::TensorList b) {
  TORCH_CHECK_VALUE(
      y.dim() == 2 && y.size(0) == a[0].size(0) && y.size(1) == b[0].size(1), "a product of ", a[0].sizes(), " by ",
      b[0].sizes(), " is not ", y.sizes());
  TORCH_CHECK_NOT_IMPLEMENTED(
      !at::GradMode::is_enabled() || !y.requires_grad(), "rora::sum_of_products_ has no derivative");
}

} // namespace detail

namespace reference {

RORA_INLINE at::Tensor& sum_of_products_(
    at::Tensor& y, at::TensorList a, at::TensorList b, double scale, bool accumulate) {
  detail::check_products(a, b);
  detail::check_result(y, a, b);
  const bool in_place = y.scalar_type() == a[0].scalar_type();
  at::Tensor sum = in_place ? y : at::empty(y.sizes(), a[0].options());
  for (size_t i = 0; i < a.size(); ++i) {
    const bool adds = i > 0 || (in_place && accumulate);
    at::addmm_out(sum, sum, a[i], b[i].to(a[i].scalar_type()), /*beta=*/adds ? 1 : 0, /*alpha=*/scale);
  }
  return in_place ? y : accumulate ? y.add_(sum) : y.copy_(sum);
}

RORA_INLINE at::Tensor sum_of_products(
    at::TensorList a, at::TensorList b, double scale, const std::optional<at::Tensor>& column_scale,
    std::optional<at::ScalarType> dtype) {
  detail::check_products(a, b, column_scale);
  at::Tensor y = at::empty({a[0].size(0), b[0].size(1)}, a[0].options());
  sum_of_products_(y, a, b, scale, /*accumulate=*/false);
  if (column_scale) {
    y.mul_(column_scale->to(y.scalar_type()));
  }
  return y.to(dtype.value_or(y.scalar_type()));
}

} // namespace reference

RORA_INLINE at::Tensor sum_of_products(
    at::TensorList a, at::TensorList b, double scale, const std::optional<at::Tensor>& column_scale,
    std::optional<at::ScalarType> dtype) {
  return detail::call_operation<reference::sum_of_products>("rora::sum_of_products", a, b, scale, column_scale, dtype);
}

RORA_INLINE void sum_of_products_(at::Tensor& y, at::TensorList a, at::TensorList b, double scale, bool accumulate) {
  detail::call_operation<reference::sum_of_products_>("rora::sum_of_products_", y, a, b, scale, accumulate);
}

} // namespace rora::ops
