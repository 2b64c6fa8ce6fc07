#include "kernels.h"
#include "rotary.h"

#include "launch.cuh"

namespace rora::kernels::cuda {

cudaError_t rotary(const RotaryParameters& p, int64_t items, cudaStream_t stream) {
  return launch_by_type<Rotary>(p, stream, items);
}

} // namespace rora::kernels::cuda
