#include "cross_entropy.h"
#include "kernels.h"

#include "launch.cuh"

namespace rora::kernels::cuda {

cudaError_t cross_entropy(const CrossEntropyParameters& p, int64_t rows, cudaStream_t stream) {
  return launch_by_type<CrossEntropy>(p, stream, rows);
}

} // namespace rora::kernels::cuda
