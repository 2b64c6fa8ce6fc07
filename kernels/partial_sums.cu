#include "kernels.h"
#include "partial_sums.h"

#include "launch.cuh"

namespace rora::kernels::cuda {

cudaError_t partial_sums(const PartialSumsParameters& p, cudaStream_t stream) {
  return launch(PartialSums(p), stream);
}

} // namespace rora::kernels::cuda
