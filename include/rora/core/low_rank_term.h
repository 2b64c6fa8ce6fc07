#pragma once

#include <rora/core/dora_dropout.h>
#include <rora/core/dropout.h>

#include <ATen/core/Tensor.h>

#include <atomic>
#include <cstdint>
#include <memory>

namespace rora::ops {

class GradientBuffer;
class LinearWeight;

/// One linear map with a low-rank change; x is `[..., in]`, y `[..., out]`.
///
///   LoRA:  y = W·x + s·B·A·x + bias                             (Hu et al., arXiv 2106.09685, eq 3)
///   RoRA:  the same with s = α/√r                               (arXiv 2501.04315, section 3)
///   DoRA:  y = n⊙(W·x + s·B·A·x) + bias, n = m/‖W + s·B·A‖      (Liu et al., arXiv 2402.09353, eq 5 and section 4.3)
struct LowRankTerm {
  std::shared_ptr<const LinearWeight> weight; ///< W
  at::Tensor trainable_weight; ///< W once more where it is dense and itself trained
  at::Tensor bias; ///< `[out]` or undefined
  at::Tensor a; ///< A `[rank, in]`; undefined: the frozen layer
  at::Tensor b; ///< B `[out, rank]`
  double scale = 1.0; ///< s
  Dropout dropout; ///< of the low-rank branch's input
  at::Tensor magnitude; ///< m `[out]`; undefined: no DoRA
  at::Tensor norm; ///< ‖W + s·B·A‖ of each row `[out]`, a constant of the graph
  DoraDropout dora_dropout = DoraDropout::kInput;
  std::shared_ptr<GradientBuffer> a_gradient; ///< where A's gradient may be written; null: nowhere
  std::shared_ptr<GradientBuffer> b_gradient; ///< the same of B
  /// Counts backward passes, behind each of which an optimiser may change A and B; null: nobody asks.
  std::shared_ptr<std::atomic<uint64_t>> backward_passes;

  bool low_rank() const {
    return a.defined();
  }
  bool dora() const {
    return magnitude.defined();
  }
  /// Whether the frozen product reads dropped inputs too.
  bool drops_input() const {
    return dora() && dropout.active() && dora_dropout == DoraDropout::kInput;
  }
  /// n `[out]` in the norm's dtype: 0 for a row whose norm is 0, as PEFT's division would make it NaN.
  at::Tensor direction_scale() const;
};

} // namespace rora::ops
