#include "kernels.h"
#include "lora_shrink.h"

#include "launch.cuh"

namespace rora::kernels::cuda {
namespace {

template <class T, class A>
cudaError_t launch_by_rank(const LowRankShrinkParameters& p, cudaStream_t stream) {
  if (p.rank > LowRankProducts::kMostRank) {
    return cudaErrorInvalidValue;
  }
  switch (LowRankProducts::kernel_rank(p.rank)) {
    case 16:
      return launch(LowRankShrink<T, A, 16>(p), stream);
    case 32:
      return launch(LowRankShrink<T, A, 32>(p), stream);
    case 64:
      return launch(LowRankShrink<T, A, 64>(p), stream);
    default:
      return launch(LowRankShrink<T, A, 128>(p), stream);
  }
}

} // namespace

cudaError_t low_rank_shrink(const LowRankShrinkParameters& p, cudaStream_t stream) {
  if (p.type == Type::kBFloat16 && p.a_type == Type::kBFloat16) {
    return launch_by_rank<BFloat16, BFloat16>(p, stream);
  }
  if (p.a_type != Type::kFloat) {
    return cudaErrorInvalidValue;
  }
  switch (p.type) {
    case Type::kBFloat16:
      return launch_by_rank<BFloat16, float>(p, stream);
    case Type::kFloat:
      return launch_by_rank<float, float>(p, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

} // namespace rora::kernels::cuda
