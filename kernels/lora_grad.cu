#include "kernels.h"
#include "lora_grad.h"

#include "launch.cuh"

namespace rora::kernels::cuda {
namespace {

template <class T, class B, bool WithB>
cudaError_t launch_by_rank(const LowRankGradientParameters& p, cudaStream_t stream) {
  if (p.rank > LowRankProducts::kMostRank) {
    return cudaErrorInvalidValue;
  }
  switch (LowRankProducts::kernel_rank(p.rank)) {
    case 16:
      return launch(LowRankGradient<T, B, 16, WithB>(p), stream);
    case 32:
      return launch(LowRankGradient<T, B, 32, WithB>(p), stream);
    case 64:
      return launch(LowRankGradient<T, B, 64, WithB>(p), stream);
    default:
      if constexpr (!WithB) {
        return launch(LowRankGradient<T, B, 128, WithB>(p), stream);
      }
      return cudaErrorInvalidValue;
  }
}

} // namespace

cudaError_t low_rank_gradient(const LowRankGradientParameters& p, cudaStream_t stream) {
  if (p.type == Type::kDouble || (p.b_type != p.type && p.b_type != Type::kFloat)) {
    return cudaErrorInvalidValue;
  }
  if (p.dshrunk == nullptr) {
    return p.type == Type::kFloat ? launch_by_rank<float, float, false>(p, stream)
                                  : launch_by_rank<BFloat16, BFloat16, false>(p, stream);
  }
  if (p.type == Type::kFloat) {
    return launch_by_rank<float, float, true>(p, stream);
  }
  return p.b_type == Type::kFloat ? launch_by_rank<BFloat16, float, true>(p, stream)
                                  : launch_by_rank<BFloat16, BFloat16, true>(p, stream);
}

} // namespace rora::kernels::cuda
