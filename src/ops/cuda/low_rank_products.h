#pragma once

#include <kernels/parameters.h>

#include "fastest_form.h"

#include <ATen/core/Tensor.h>
#include <c10/util/FunctionRef.h>

#include <array>
#include <tuple>

// The low-rank products by kernels that make partial sums: parameters and workspaces of any device. What the kernels do
// not take (other dtypes, greater ranks) goes to the reference.
namespace rora::ops::detail {

/// A device's launchers, for the device of the tensors and its current stream.
struct LowRankKernels {
  void (*shrink)(const kernels::LowRankShrinkParameters&);
  void (*gradient)(const kernels::LowRankGradientParameters&);
  void (*gradient_x)(const kernels::LowRankGradientXParameters&);
  void (*partial_sums)(const kernels::PartialSumsParameters&);
  /// Whether the reference's matrix products are to be taken for a pass, either form of which can be run as a trial.
  /// Null: no.
  bool (*prefers_products)(
      const ThinShape&, c10::function_ref<void()> by_kernel, c10::function_ref<void()> by_products) = nullptr;
};

at::Tensor low_rank_shrink(
    const LowRankKernels& kernels, const at::Tensor& x, const at::Tensor& a, double scale, double p, int64_t seed);

std::tuple<at::Tensor, at::Tensor> low_rank_gradient_b(
    const LowRankKernels& kernels, const at::Tensor& dy, const at::Tensor& shrunk, const at::Tensor& b, double scale,
    std::array<bool, 2> mask);

/// The first into `dshrunk`, whose rows may lie apart; returns the second.
at::Tensor low_rank_gradient_b_into(
    const LowRankKernels& kernels, const at::Tensor& dy, const at::Tensor& shrunk, const at::Tensor& b, double scale,
    bool needs_db, at::Tensor& dshrunk);

at::Tensor low_rank_gradient_a(
    const LowRankKernels& kernels, const at::Tensor& dshrunk, const at::Tensor& x, at::ScalarType dtype, double p,
    int64_t seed);

at::Tensor& low_rank_gradient_x_(
    const LowRankKernels& kernels, at::Tensor& dx, const at::Tensor& dshrunk, const at::Tensor& a, double p,
    int64_t seed);

} // namespace rora::ops::detail
