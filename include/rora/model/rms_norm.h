#pragma once

#include <rora/core/gradient_rows.h>

#include <ATen/ATen.h>
#include <torch/nn/module.h>

namespace rora {

/// What a block adds to the hidden states `[batch, seq, hidden]`.
struct StreamChange {
  at::Tensor values{}; ///< undefined: nothing
  ops::GradientPlace place{}; ///< where their gradient had best be written
};

/// Hidden states `[batch, seq, hidden]` on their way through the layers. What the last block gave is added by the norm
/// that reads them next, in the same pass over memory.
struct ResidualStream {
  at::Tensor states;
  StreamChange change{}; ///< not yet added

  at::Tensor sum() const {
    return change.values.defined() ? states + change.values : states;
  }
};

/// y = γ ⊙ x / √(mean(x²) + eps) over the last dimension, computed in fp32 and rounded to x's dtype before γ
/// multiplies, as in transformers (Zhang and Sennrich, arXiv 1910.07467, eq 4). With `adds_one`, γ is 1 + the weight in
/// fp32, and the product is rounded once.
class RMSNormImpl : public torch::nn::Module {
 public:
  RMSNormImpl(int64_t size, double eps, bool adds_one = false);

  /// x `[..., size]`; the result has x's shape and dtype.
  at::Tensor forward(const at::Tensor& x);

  /// The norm of the stream's sum, which becomes its states.
  at::Tensor forward(ResidualStream& stream);

  /// γ `[size]`: in the weight's dtype, or at least fp32 where one is added.
  at::Tensor factor() const;

  at::Tensor weight; ///< γ, or what is added to 1 to give it
  double eps;
  bool adds_one;
};
TORCH_MODULE(RMSNorm);

} // namespace rora
