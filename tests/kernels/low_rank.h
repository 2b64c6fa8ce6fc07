#pragma once

#include "kernels/support.h"

#include <kernels/lora_grad.h>
#include <kernels/lora_grad_x.h>
#include <kernels/lora_shrink.h>
#include <kernels/partial_sums.h>

#include <string>
#include <type_traits>

// The launchers of the low-rank products' kernels, as kernels/*.cu choose among them, on the host.
namespace rora::testing {

/// How the threads of what is run from now on take turns: all three ways would take three times as long.
inline kernels::cuda::host::Order& order_of_threads() {
  static kernels::cuda::host::Order order = kernels::cuda::host::Order::kShuffled;
  return order;
}

template <template <class, class, int> class Kernel, class Parameters>
void run_by_type_and_rank(const Parameters& p, kernels::Type of_right) {
  using kernels::cuda::BFloat16;
  const auto run = [&](auto rank) {
    constexpr int kRank = decltype(rank)::value;
    if (p.type == kernels::Type::kFloat) {
      kernels::cuda::host::run(Kernel<float, float, kRank>(p), order_of_threads());
    } else if (of_right == kernels::Type::kFloat) {
      kernels::cuda::host::run(Kernel<BFloat16, float, kRank>(p), order_of_threads());
    } else {
      kernels::cuda::host::run(Kernel<BFloat16, BFloat16, kRank>(p), order_of_threads());
    }
  };
  ASSERT_LE(p.rank, kernels::LowRankProducts::kMostRank);
  switch (kernels::LowRankProducts::kernel_rank(p.rank)) {
    case 16:
      return run(std::integral_constant<int, 16>{});
    case 32:
      return run(std::integral_constant<int, 32>{});
    case 64:
      return run(std::integral_constant<int, 64>{});
    default:
      return run(std::integral_constant<int, 128>{});
  }
}

template <class T, class B, int kRank>
using GradientWithB = kernels::cuda::LowRankGradient<T, B, kRank, true>;
template <class T, class B, int kRank>
using GradientAlone = kernels::cuda::LowRankGradient<T, T, kRank, false>;

inline void run_shrink(const kernels::LowRankShrinkParameters& p) {
  run_by_type_and_rank<kernels::cuda::LowRankShrink>(p, p.a_type);
}
inline void run_gradient(const kernels::LowRankGradientParameters& p) {
  if (p.dshrunk != nullptr) {
    ASSERT_LE(p.rank, kernels::LowRankGradientParameters::kMostRankInOnePass);
    run_by_type_and_rank<GradientWithB>(p, p.b_type);
  } else {
    run_by_type_and_rank<GradientAlone>(p, p.type);
  }
}
inline void run_gradient_x(const kernels::LowRankGradientXParameters& p) {
  run_by_type_and_rank<kernels::cuda::LowRankGradientX>(p, p.a_type);
}
inline void run_partial_sums(const kernels::PartialSumsParameters& p) {
  kernels::cuda::host::run(kernels::cuda::PartialSums(p), order_of_threads());
}

/// In float right to rounding; in bfloat16 no more than 1.5 times as far from the truth as `eager`, and a share of one
/// rounding.
inline void expect_right(
    const at::Tensor& found, const at::Tensor& truth, const at::Tensor& eager, const std::string& what) {
  const auto distance = [&](const at::Tensor& x) { return (x.to(at::kDouble) - truth).norm().item<double>(); };
  const double size = truth.norm().item<double>();
  const double allowed = eager.scalar_type() == at::kFloat ? 2e-6 * size : 1.5 * distance(eager) + 1e-3 * size;
  ASSERT_EQ(found.sizes(), truth.sizes()) << what;
  EXPECT_LE(distance(found), allowed) << what;
}

} // namespace rora::testing
