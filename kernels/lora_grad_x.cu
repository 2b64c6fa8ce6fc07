#include "kernels.h"
#include "lora_grad_x.h"

#include "launch_by_rank.cuh"

namespace rora::kernels::cuda {

cudaError_t low_rank_gradient_x(const LowRankGradientXParameters& p, cudaStream_t stream) {
  return launch_by_types_and_rank<LowRankGradientX>(p, stream);
}

} // namespace rora::kernels::cuda
