#include "kernels.h"
#include "rms_norm.h"

#include "launch.cuh"

namespace rora::kernels::cuda {

cudaError_t rms_norm(const RMSNormParameters& p, int64_t rows, cudaStream_t stream) {
  return launch_by_type<RMSNorm>(p, stream, rows);
}

cudaError_t rms_norm_backward(const RMSNormParameters& p, int64_t rows, cudaStream_t stream) {
  return launch_by_type<RMSNormBackward>(p, stream, rows);
}

} // namespace rora::kernels::cuda
