#pragma once

#include "launch.cuh"
#include "parameters.h"

namespace rora::kernels::cuda {

/// Launches the Kernel<T, A, rank> of the parameters' rank, for ranks up to `most_rank`; there are none beyond it.
template <
    template <class, class, int> class Kernel, class T, class A, int64_t most_rank = LowRankProducts::kMostRank,
    class Parameters>
cudaError_t launch_by_rank(const Parameters& p, cudaStream_t stream) {
  if (p.rank > most_rank) {
    return cudaErrorInvalidValue;
  }
  switch (LowRankProducts::kernel_rank(p.rank)) {
    case 16:
      return launch(Kernel<T, A, 16>(p), stream);
    case 32:
      return launch(Kernel<T, A, 32>(p), stream);
    case 64:
      return launch(Kernel<T, A, 64>(p), stream);
    default:
      if constexpr (most_rank > 64) {
        return launch(Kernel<T, A, 128>(p), stream);
      }
      return cudaErrorInvalidValue;
  }
}

/// The same by the types of the activations and of A, which is float or what they are.
template <template <class, class, int> class Kernel, class Parameters>
cudaError_t launch_by_types_and_rank(const Parameters& p, cudaStream_t stream) {
  if (p.type == Type::kBFloat16 && p.a_type == Type::kBFloat16) {
    return launch_by_rank<Kernel, BFloat16, BFloat16>(p, stream);
  }
  if (p.a_type != Type::kFloat) {
    return cudaErrorInvalidValue;
  }
  switch (p.type) {
    case Type::kBFloat16:
      return launch_by_rank<Kernel, BFloat16, float>(p, stream);
    case Type::kFloat:
      return launch_by_rank<Kernel, float, float>(p, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

} // namespace rora::kernels::cuda
