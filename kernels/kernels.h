#pragma once

// The launchers of the GPU's kernels. Each puts its kernel on `stream` and returns what CUDA says of that; counts are
// what the CPU's loops call items. The kernels know float and bfloat16.

#include "parameters.h"

#include <cuda_runtime_api.h>

namespace rora::kernels::cuda {

cudaError_t rms_norm(const RMSNormParameters& p, int64_t rows, cudaStream_t stream);
cudaError_t rms_norm_backward(const RMSNormParameters& p, int64_t rows, cudaStream_t stream);
cudaError_t swiglu(const SwiGLUParameters& p, int64_t rows, cudaStream_t stream);
cudaError_t swiglu_backward(const SwiGLUParameters& p, int64_t rows, cudaStream_t stream);
cudaError_t rotary(const RotaryParameters& p, int64_t items, cudaStream_t stream);
cudaError_t cross_entropy(const CrossEntropyParameters& p, int64_t rows, cudaStream_t stream);
cudaError_t dropout(const DropoutParameters& p, int64_t items, cudaStream_t stream);
cudaError_t dora_norm(const DoRANormParameters& p, int64_t rows, cudaStream_t stream);
cudaError_t column_sum(const ColumnSumParameters& p, int64_t items, cudaStream_t stream);
cudaError_t zero_magnitude(const ZeroMagnitudeParameters& p, int64_t columns, cudaStream_t stream);

cudaError_t padded_copy(const PaddedCopyParameters& p, cudaStream_t stream);

cudaError_t low_rank_shrink(const LowRankShrinkParameters& p, cudaStream_t stream);
cudaError_t low_rank_gradient(const LowRankGradientParameters& p, cudaStream_t stream);
cudaError_t low_rank_gradient_x(const LowRankGradientXParameters& p, cudaStream_t stream);
cudaError_t partial_sums(const PartialSumsParameters& p, cudaStream_t stream);

/// In tiles of `groups` groups of rows.
cudaError_t rms_norm_shrink(const RMSNormShrinkParameters& p, int64_t groups, cudaStream_t stream);
/// Of shared memory, that a block of the current device may ask for.
int64_t most_shared_bytes();

} // namespace rora::kernels::cuda
