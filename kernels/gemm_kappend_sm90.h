#pragma once

// Products that `KAppendParameters` describe, on Hopper, over CUTLASS's headers: only where RORA_HAS_CUTLASS is
// defined.

#include "gemm_kappend.h"

#include <cuda_runtime_api.h>

namespace rora::kernels::cuda {

/// Whether a GPU is one that the kernel is built for: of compute capability 9.0.
bool has_kappend(int device);

/// Whether `gemm_kappend` takes the parameters on this device.
bool fits(const KAppendParameters& p, int device);

/// What the product needs beside the matrices, in bytes, for parameters that fit.
int64_t kappend_workspace_bytes(const KAppendParameters& p);

/// Puts the product on `stream` of the current device, for parameters that fit. They give the same bits in every run:
/// one thread sums up each element, the deep pair's products first. `workspace` is 256-byte aligned; null where none is
/// needed.
cudaError_t gemm_kappend(const KAppendParameters& p, void* workspace, cudaStream_t stream);

} // namespace rora::kernels::cuda
