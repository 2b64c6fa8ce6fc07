#include "../cpu/kernels.h"

#if defined(RORA_HAS_CUDA)
#include <kernels/kernels.h>

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace rora::kernels {

#if defined(RORA_HAS_CUDA)
namespace {

/// A launcher as an entry of the table: all items, on the current stream.
template <class Parameters, cudaError_t (*launcher)(const Parameters&, int64_t, cudaStream_t)>
void on_current_stream(const Parameters& p, int64_t begin, int64_t end) {
  C10_CUDA_CHECK(launcher(p, end - begin, c10::cuda::getCurrentCUDAStream()));
}

Kernels make_table() {
  Kernels table{};
  table.name = "cuda";
  table.rms_norm = on_current_stream<RMSNormParameters, cuda::rms_norm>;
  table.rms_norm_backward = on_current_stream<RMSNormParameters, cuda::rms_norm_backward>;
  table.swiglu = on_current_stream<SwiGLUParameters, cuda::swiglu>;
  table.swiglu_backward = on_current_stream<SwiGLUParameters, cuda::swiglu_backward>;
  table.rotary = on_current_stream<RotaryParameters, cuda::rotary>;
  table.cross_entropy = on_current_stream<CrossEntropyParameters, cuda::cross_entropy>;
  table.dropout = on_current_stream<DropoutParameters, cuda::dropout>;
  table.dora_norm = on_current_stream<DoRANormParameters, cuda::dora_norm>;
  table.column_sum = on_current_stream<ColumnSumParameters, cuda::column_sum>;
  table.zero_magnitude = on_current_stream<ZeroMagnitudeParameters, cuda::zero_magnitude>;
  return table;
}

} // namespace

const Kernels* cuda_kernels() {
  static const Kernels table = make_table();
  return &table;
}
#else
const Kernels* cuda_kernels() {
  return nullptr;
}
#endif

} // namespace rora::kernels
