#pragma once

#include <torch/csrc/autograd/custom_function.h>

#include <cstddef>
#include <optional>
#include <tuple>

namespace rora::ops::detail {

/// Throws `c10::ValueError` for sizes that do not go together.
void check_rms_norm(
    const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& added = std::nullopt);

/// (sum, y, rstd) by the device's operators; without `added`, the sum is undefined.
std::tuple<at::Tensor, at::Tensor, at::Tensor> rms_norm_of_sum(
    const at::Tensor& x, const std::optional<at::Tensor>& added, const at::Tensor& weight, double eps);

/// Backward of a node whose first inputs are x, weight and, where `saved_data["added"]` says so, added, and whose first
/// outputs are the sum and its norm; it has saved the sum, weight and rstd, and kept a place (`keep_place`). Gives
/// `inputs` gradients, undefined behind the third.
torch::autograd::variable_list add_rms_norm_gradients(
    torch::autograd::AutogradContext* ctx, const torch::autograd::variable_list& gradients, const char* name,
    size_t inputs);

} // namespace rora::ops::detail
