#pragma once

#include <ATen/core/grad_mode.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cmath>

namespace rora {

/// How a low-rank adapter begins. B is zero in each, so that the adapted layer begins as the frozen one.
enum class Initialization {
  kKaimingUniform, ///< A uniform in ±1/√in, as `torch::nn::Linear`'s weight (PEFT's `init_lora_weights=True`)
  kGaussian, ///< A normal with deviation 1/rank (PEFT's "gaussian")
};

/// Fills A `[rank, in]` and B `[out, rank]`, drawing from LibTorch's default generator of the CPU whatever their
/// device: a seed gives the same adapter everywhere.
inline void initialize_low_rank(Initialization initialization, at::Tensor& a, at::Tensor& b) {
  at::NoGradGuard no_grad;
  at::Tensor drawn = a.is_cpu() ? a : at::empty(a.sizes(), a.options().device(at::kCPU));
  switch (initialization) {
    case Initialization::kKaimingUniform: {
      // Kaiming with slope √5 has the bound √(6 / (1 + 5) / in).
      const double bound = 1.0 / std::sqrt(static_cast<double>(a.size(1)));
      drawn.uniform_(-bound, bound);
      break;
    }
    case Initialization::kGaussian:
      drawn.normal_(0.0, 1.0 / static_cast<double>(a.size(0)));
      break;
  }
  if (!a.is_cpu()) {
    a.copy_(drawn);
  }
  b.zero_();
}

} // namespace rora
