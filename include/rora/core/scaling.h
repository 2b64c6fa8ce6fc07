#pragma once

#include <c10/util/Exception.h>

#include <cmath>
#include <cstdint>

namespace rora {

/// How the scale of a low-rank change follows from alpha and rank.
enum class Scaling {
  kStandard, ///< α/r: LoRA (Hu et al., arXiv 2106.09685, section 4.1)
  kRankStabilized, ///< α/√r: RoRA (arXiv 2501.04315) and rsLoRA (Kalajdzievski, arXiv 2312.03732); PEFT's `use_rslora`
};

/// The factor of B·A. Throws for a rank below 1.
inline double scaling_factor(Scaling scaling, double alpha, int64_t rank) {
  TORCH_CHECK_VALUE(rank >= 1, "a scale needs a rank of at least 1, not ", rank);
  return alpha / (scaling == Scaling::kStandard ? static_cast<double>(rank) : std::sqrt(static_cast<double>(rank)));
}

} // namespace rora
