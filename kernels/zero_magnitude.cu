#include "kernels.h"
#include "zero_magnitude.h"

#include "launch.cuh"

namespace rora::kernels::cuda {

cudaError_t zero_magnitude(const ZeroMagnitudeParameters& p, int64_t columns, cudaStream_t stream) {
  return launch_by_type<ZeroMagnitude>(p, stream, columns);
}

} // namespace rora::kernels::cuda
