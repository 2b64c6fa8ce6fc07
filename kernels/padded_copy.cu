#include "kernels.h"
#include "padded_copy.h"

#include "launch.cuh"

namespace rora::kernels::cuda {

cudaError_t padded_copy(const PaddedCopyParameters& p, cudaStream_t stream) {
  return launch(PaddedCopy(p), stream);
}

} // namespace rora::kernels::cuda
