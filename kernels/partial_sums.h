#pragma once

#include "device.h"
#include "parameters.h"

namespace rora::kernels::cuda {

/// result = scale·Σₛ partial[s], the parts added in their order, so that the sum is the same bits each time. A thread
/// takes an element; a row of blocks takes a result. Reads the partial sums once, writes (`=`) the results once.
struct PartialSums {
  static constexpr int kThreads = 256;
  PartialSumsParameters p;

  explicit PartialSums(const PartialSumsParameters& p) : p(p) {}

  Geometry geometry() const {
    const int64_t most = p.results[0].count > p.results[1].count ? p.results[0].count : p.results[1].count;
    return {divide_up(most, kThreads), p.results[1].count > 0 ? 2 : 1, 0};
  }

  RORA_DEVICE void operator()() const {
    const auto& result = block_y() == 0 ? p.results[0] : p.results[1];
    const int64_t i = block_x() * kThreads + thread_index();
    if (i >= result.count) {
      return;
    }
    constexpr int kAtOnce = 4;
    float sum = 0.0f;
    int64_t part = 0;
    for (; part + kAtOnce <= result.parts; part += kAtOnce) {
      float each[kAtOnce];
      RORA_UNROLL
      for (int j = 0; j < kAtOnce; ++j) {
        each[j] = result.partial[(part + j) * result.count + i];
      }
      RORA_UNROLL
      for (int j = 0; j < kAtOnce; ++j) {
        sum += each[j];
      }
    }
    for (; part < result.parts; ++part) {
      sum += result.partial[part * result.count + i];
    }
    sum *= static_cast<float>(result.scale);
    const int64_t row = result.width > 0 ? i / result.width : 0;
    const int64_t place = result.width > 0 ? row * result.stride + (i - row * result.width) : i;
    if (result.type == Type::kBFloat16) {
      static_cast<BFloat16*>(result.data)[place] = rounded<BFloat16>(sum);
    } else {
      static_cast<float*>(result.data)[place] = sum;
    }
  }
};

} // namespace rora::kernels::cuda
