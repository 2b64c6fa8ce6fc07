#include "kernels.h"
#include "lora_grad.h"

#include "launch_by_rank.cuh"

namespace rora::kernels::cuda {
namespace {

template <class T, class B, int Rank>
using WithB = LowRankGradient<T, B, Rank, true>;
template <class T, class B, int Rank>
using Alone = LowRankGradient<T, B, Rank, false>;

constexpr int64_t kMostRankWithB = LowRankGradientParameters::kMostRankInOnePass;

} // namespace

cudaError_t low_rank_gradient(const LowRankGradientParameters& p, cudaStream_t stream) {
  if (p.type == Type::kDouble || (p.b_type != p.type && p.b_type != Type::kFloat)) {
    return cudaErrorInvalidValue;
  }
  if (p.dshrunk == nullptr) {
    return p.type == Type::kFloat ? launch_by_rank<Alone, float, float>(p, stream)
                                  : launch_by_rank<Alone, BFloat16, BFloat16>(p, stream);
  }
  if (p.type == Type::kFloat) {
    return launch_by_rank<WithB, float, float, kMostRankWithB>(p, stream);
  }
  return p.b_type == Type::kFloat ? launch_by_rank<WithB, BFloat16, float, kMostRankWithB>(p, stream)
                                  : launch_by_rank<WithB, BFloat16, BFloat16, kMostRankWithB>(p, stream);
}

} // namespace rora::kernels::cuda
