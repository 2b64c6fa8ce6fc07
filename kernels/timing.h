#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <limits>

namespace rora::kernels::cuda {

/// What `run`, which puts work on the stream, takes there: several runs behind one that warms up. Infinite where one of
/// them returns false, or nothing can be timed. It waits for the stream.
template <class Run>
float milliseconds(cudaStream_t stream, const Run& run) {
  constexpr int kRuns = 5;
  constexpr float kNever = std::numeric_limits<float>::infinity();
  struct Events {
    std::array<cudaEvent_t, 2> all{};
    ~Events() {
      for (const cudaEvent_t each : all) {
        if (each != nullptr) {
          cudaEventDestroy(each);
        }
      }
    }
  } events;
  for (cudaEvent_t& each : events.all) {
    if (cudaEventCreate(&each) != cudaSuccess) {
      return kNever;
    }
  }
  const auto [begin, end] = events.all;
  if (!run() || cudaEventRecord(begin, stream) != cudaSuccess) {
    return kNever;
  }
  for (int i = 0; i < kRuns; ++i) {
    if (!run()) {
      return kNever;
    }
  }
  float taken = kNever;
  if (cudaEventRecord(end, stream) != cudaSuccess || cudaEventSynchronize(end) != cudaSuccess ||
      cudaEventElapsedTime(&taken, begin, end) != cudaSuccess) {
    return kNever;
  }
  return taken;
}

} // namespace rora::kernels::cuda
