#pragma once

// The launchers of the GPU's kernels. Each puts its kernel on `stream` and returns what CUDA says of that; counts are what
// the CPU's loops call items. The kernels know float and bfloat16.

#include "parameters.h"

#include <cuda_runtime_api.h>

namespace rora::kernels::cuda {

cudaError_t rms_norm(const RMSNormParameters& p, int64_t rows, cudaStream_t stream);
cudaError_t rms_norm_backward(const RMSNormParameters& p, int64_t rows, cudaStream_t stream);

} // namespace rora::kernels::cuda
