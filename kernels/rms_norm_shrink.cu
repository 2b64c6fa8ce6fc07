#include "kernels.h"
#include "rms_norm_shrink.h"

#include "launch.cuh"

namespace rora::kernels::cuda {
namespace {

cudaError_t attribute_of_device(int& value, cudaDeviceAttr attribute) {
  int device = 0;
  const cudaError_t error = cudaGetDevice(&device);
  return error != cudaSuccess ? error : cudaDeviceGetAttribute(&value, attribute, device);
}

template <int Rank, int Groups>
cudaError_t launch_tiles(const RMSNormShrinkParameters& p, cudaStream_t stream) {
  int sms = 0;
  const cudaError_t error = attribute_of_device(sms, cudaDevAttrMultiProcessorCount);
  return error != cudaSuccess ? error : launch(RMSNormShrink<Rank, Groups>(p, sms), stream);
}

template <int Groups>
cudaError_t launch_by_rank(const RMSNormShrinkParameters& p, cudaStream_t stream) {
  switch (RMSNormShrinkParameters::kernel_rank(p.rank)) {
    case 16:
      return launch_tiles<16, Groups>(p, stream);
    case 32:
      return launch_tiles<32, Groups>(p, stream);
    case 48:
      return launch_tiles<48, Groups>(p, stream);
    case 64:
      return launch_tiles<64, Groups>(p, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

} // namespace

int64_t most_shared_bytes() {
  int bytes = 0;
  return attribute_of_device(bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin) == cudaSuccess ? bytes : 0;
}

cudaError_t rms_norm_shrink(const RMSNormShrinkParameters& p, int64_t groups, cudaStream_t stream) {
  switch (groups) {
    case 2:
      return launch_by_rank<2>(p, stream);
    case 3:
      return launch_by_rank<3>(p, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

} // namespace rora::kernels::cuda
