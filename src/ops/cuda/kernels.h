#pragma once

// The GPU's kernels behind the ops, with the same plain parameters as the CPU's (cpu/kernels.h).

#include <kernels/parameters.h>

#include <cstdint>

namespace rora::kernels {

/// Launchers: each runs `count` items on the current stream of the current device.
struct CudaKernels {
  void (*rms_norm)(const RMSNormParameters&, int64_t count) = nullptr; ///< items are rows
  void (*rms_norm_backward)(const RMSNormParameters&, int64_t count) = nullptr;
  void (*swiglu)(const SwiGLUParameters&, int64_t count) = nullptr; ///< items are rows
  void (*swiglu_backward)(const SwiGLUParameters&, int64_t count) = nullptr;
  void (*rotary)(const RotaryParameters&, int64_t count) = nullptr; ///< items are pairs batch·seq
  void (*cross_entropy)(const CrossEntropyParameters&, int64_t count) = nullptr; ///< items are rows
  void (*dropout)(const DropoutParameters&, int64_t count) = nullptr; ///< items are kBlock elements
  void (*column_sum)(const ColumnSumParameters&, int64_t count) = nullptr; ///< items are kColumns columns
  void (*dora_norm)(const DoRANormParameters&, int64_t count) = nullptr; ///< items are rows
  void (*zero_magnitude)(const ZeroMagnitudeParameters&, int64_t count) = nullptr; ///< items are columns
};

/// Null in a build without CUDA.
const CudaKernels* cuda_kernels();

} // namespace rora::kernels
