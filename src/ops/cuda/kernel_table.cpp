#include "kernels.h"

#if defined(RORA_HAS_CUDA)
#include <kernels/kernels.h>

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace rora::kernels {

#if defined(RORA_HAS_CUDA)
namespace {

/// A launcher as an entry of the table: on the current stream.
template <class Parameters, cudaError_t (*launcher)(const Parameters&, int64_t, cudaStream_t)>
void on_current_stream(const Parameters& p, int64_t count) {
  C10_CUDA_CHECK(launcher(p, count, c10::cuda::getCurrentCUDAStream()));
}

constexpr CudaKernels kTable{
    .rms_norm = on_current_stream<RMSNormParameters, cuda::rms_norm>,
    .rms_norm_backward = on_current_stream<RMSNormParameters, cuda::rms_norm_backward>,
    .swiglu = on_current_stream<SwiGLUParameters, cuda::swiglu>,
    .swiglu_backward = on_current_stream<SwiGLUParameters, cuda::swiglu_backward>,
    .rotary = on_current_stream<RotaryParameters, cuda::rotary>,
    .cross_entropy = on_current_stream<CrossEntropyParameters, cuda::cross_entropy>,
    .dropout = on_current_stream<DropoutParameters, cuda::dropout>,
    .column_sum = on_current_stream<ColumnSumParameters, cuda::column_sum>,
    .dora_norm = on_current_stream<DoRANormParameters, cuda::dora_norm>,
    .zero_magnitude = on_current_stream<ZeroMagnitudeParameters, cuda::zero_magnitude>,
};

} // namespace

const CudaKernels* cuda_kernels() {
  return &kTable;
}
#else
const CudaKernels* cuda_kernels() {
  return nullptr;
}
#endif

} // namespace rora::kernels
