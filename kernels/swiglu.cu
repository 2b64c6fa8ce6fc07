#include "kernels.h"
#include "swiglu.h"

#include "launch.cuh"

namespace rora::kernels::cuda {

cudaError_t swiglu(const SwiGLUParameters& p, int64_t rows, cudaStream_t stream) {
  return launch_by_type<SwiGLU>(p, stream, rows);
}

cudaError_t swiglu_backward(const SwiGLUParameters& p, int64_t rows, cudaStream_t stream) {
  return launch_by_type<SwiGLUBackward>(p, stream, rows);
}

} // namespace rora::kernels::cuda
