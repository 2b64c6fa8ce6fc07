#include "kernels.h"
#include "lora_shrink.h"

#include "launch_by_rank.cuh"

namespace rora::kernels::cuda {

cudaError_t low_rank_shrink(const LowRankShrinkParameters& p, cudaStream_t stream) {
  return launch_by_types_and_rank<LowRankShrink>(p, stream);
}

} // namespace rora::kernels::cuda
