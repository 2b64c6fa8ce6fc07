#include "dropout.h"
#include "kernels.h"

#include "launch.cuh"

namespace rora::kernels::cuda {

cudaError_t dropout(const DropoutParameters& p, int64_t items, cudaStream_t stream) {
  return launch_by_type<Dropout>(p, stream, items);
}

} // namespace rora::kernels::cuda
