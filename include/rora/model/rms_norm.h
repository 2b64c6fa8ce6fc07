#pragma once

#include <ATen/ATen.h>
#include <torch/nn/module.h>

namespace rora {

/// Hidden states `[batch, seq, hidden]` on their way through the layers. What the last block gave is added by the norm
/// that reads them next, in the same pass over memory.
struct ResidualStream {
  at::Tensor states;
  at::Tensor change{}; ///< not yet added, of the same shape; undefined: nothing

  at::Tensor sum() const {
    return change.defined() ? states + change : states;
  }
};

/// y = γ ⊙ x / √(mean(x²) + eps) over the last dimension, computed in fp32 and rounded to x's dtype before γ
/// multiplies, as in transformers (Zhang and Sennrich, arXiv 1910.07467, eq 4).
class RMSNormImpl : public torch::nn::Module {
 public:
  RMSNormImpl(int64_t size, double eps);

  /// x `[..., size]`; the result has x's shape and dtype.
  at::Tensor forward(const at::Tensor& x);

  /// The norm of the stream's sum, which becomes its states.
  at::Tensor forward(ResidualStream& stream);

  at::Tensor weight; ///< γ `[size]`
  double eps;
};
TORCH_MODULE(RMSNorm);

} // namespace rora
