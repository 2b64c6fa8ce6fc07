#include "dora_norm.h"
#include "kernels.h"

#include "launch.cuh"

namespace rora::kernels::cuda {

cudaError_t dora_norm(const DoRANormParameters& p, int64_t rows, cudaStream_t stream) {
  return launch_by_type<DoRANorm>(p, stream, rows);
}

} // namespace rora::kernels::cuda
