#pragma once

#include "device.h"

#include <cuda_runtime.h>

#include <type_traits>

namespace rora::kernels::cuda {

/// How many blocks of a kernel an SM is to have, which bounds its registers: `Kernel::kBlocksOfSM`, or as the compiler
/// likes.
template <class Kernel, class = void>
struct BlocksOfSM {
  static constexpr int kCount = 0;
};
template <class Kernel>
struct BlocksOfSM<Kernel, std::void_t<decltype(Kernel::kBlocksOfSM)>> {
  static constexpr int kCount = Kernel::kBlocksOfSM;
};

template <class Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, BlocksOfSM<Kernel>::kCount)
    run(const __grid_constant__ Kernel kernel) {
  kernel();
}

/// Puts `kernel` on the stream; nothing for an empty grid.
template <class Kernel>
cudaError_t launch(const Kernel& kernel, cudaStream_t stream) {
  constexpr int64_t kMostWithoutAsking = 48 << 10;
  const Geometry geometry = kernel.geometry();
  if (geometry.blocks_x <= 0 || geometry.blocks_y <= 0) {
    return cudaSuccess;
  }
  if (geometry.shared_bytes > kMostWithoutAsking) {
    const cudaError_t error = cudaFuncSetAttribute(
        run<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(geometry.shared_bytes));
    if (error != cudaSuccess) {
      return error;
    }
  }
  const dim3 grid(static_cast<unsigned>(geometry.blocks_x), static_cast<unsigned>(geometry.blocks_y));
  run<Kernel><<<grid, Kernel::kThreads, static_cast<size_t>(geometry.shared_bytes), stream>>>(kernel);
  return cudaGetLastError();
}

/// Launches Kernel<float> or Kernel<BFloat16> of `p.type`; there are none of other types.
template <template <class> class Kernel, class Parameters, class... More>
cudaError_t launch_by_type(const Parameters& p, cudaStream_t stream, More... more) {
  switch (p.type) {
    case Type::kFloat:
      return launch(Kernel<float>(p, more...), stream);
    case Type::kBFloat16:
      return launch(Kernel<BFloat16>(p, more...), stream);
    default:
      return cudaErrorInvalidValue;
  }
}

} // namespace rora::kernels::cuda
