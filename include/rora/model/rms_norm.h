#pragma once

#include <torch/nn/module.h>

namespace rora {

/// y = γ ⊙ x / √(mean(x²) + eps) over the last dimension, computed in fp32 and rounded to x's dtype before γ multiplies,
/// as in transformers (Zhang and Sennrich, arXiv 1910.07467, eq 4).
class RMSNormImpl : public torch::nn::Module {
 public:
  RMSNormImpl(int64_t size, double eps);

  /// x `[..., size]`; the result has x's shape and dtype.
  at::Tensor forward(const at::Tensor& x);

  at::Tensor weight; ///< γ `[size]`
  double eps;
};
TORCH_MODULE(RMSNorm);

} // namespace rora
