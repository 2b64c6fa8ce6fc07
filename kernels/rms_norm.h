#pragma once

#include "block_sum.h"
#include "parameters.h"
#include "rows.h"

namespace rora::kernels::cuda {

/// y = x·rstd⊙weight with rstd = 1/√(mean x² + eps), a block a row. Reads x twice (the second time from the cache) and
/// weight; writes y and rstd. x·rstd is rounded to T before it is scaled, as transformers does.
template <class T>
struct RMSNorm {
  static constexpr int kThreads = 256;
  RMSNormParameters p;
  int64_t rows;
  bool packets;

  RMSNorm(const RMSNormParameters& p, int64_t rows)
      : p(p), rows(rows), packets(whole_packets<T>(p.size, p.x, p.y, Rows{const_cast<void*>(p.weight), 0})) {}

  Geometry geometry() const {
    return {rows, 1, kThreads / kWarp * static_cast<int64_t>(sizeof(float))};
  }

  RORA_DEVICE void operator()() const {
    const T* x = static_cast<const T*>(p.x.data) + block_x() * p.x.stride;
    const T* weight = static_cast<const T*>(p.weight);
    T* y = static_cast<T*>(p.y.data) + block_x() * p.y.stride;
    float sum = 0.0f;
    for_row<T, kThreads>(p.size, packets, [&](auto count, int64_t i) {
      float of_x[count.kCount];
      load(x + i, of_x);
      RORA_UNROLL
      for (const float each : of_x) {
        sum += each * each;
      }
    });
    sum = block_sum<kThreads>(sum, reinterpret_cast<float*>(shared_memory()));
    const float rstd = reciprocal_root(sum / static_cast<float>(p.size) + static_cast<float>(p.eps));
    if (thread_index() == 0) {
      static_cast<float*>(p.rstd)[block_x()] = rstd;
    }
    for_row<T, kThreads>(p.size, packets, [&](auto count, int64_t i) {
      float of_x[count.kCount], of_weight[count.kCount];
      load(x + i, of_x);
      load(weight + i, of_weight);
      RORA_UNROLL
      for (int j = 0; j < count.kCount; ++j) {
        of_x[j] = widen(rounded<T>(of_x[j] * rstd)) * of_weight[j];
      }
      store(of_x, y + i);
    });
  }
};

/// dx = rstd·(dy⊙weight − x̂·mean(dy⊙weight⊙x̂)), x̂ = x·rstd, a block a row. Reads dy and x twice (the second time from the
/// cache), weight and rstd; writes dx.
template <class T>
struct RMSNormBackward {
  static constexpr int kThreads = 256;
  RMSNormParameters p;
  int64_t rows;
  bool packets;

  RMSNormBackward(const RMSNormParameters& p, int64_t rows)
      : p(p), rows(rows), packets(whole_packets<T>(p.size, p.x, p.dy, p.dx, Rows{const_cast<void*>(p.weight), 0})) {}

  Geometry geometry() const {
    return {rows, 1, kThreads / kWarp * static_cast<int64_t>(sizeof(float))};
  }

  RORA_DEVICE void operator()() const {
    const T* x = static_cast<const T*>(p.x.data) + block_x() * p.x.stride;
    const T* dy = static_cast<const T*>(p.dy.data) + block_x() * p.dy.stride;
    const T* weight = static_cast<const T*>(p.weight);
    T* dx = static_cast<T*>(p.dx.data) + block_x() * p.dx.stride;
    const float rstd = static_cast<const float*>(p.rstd)[block_x()];
    float sum = 0.0f;
    for_row<T, kThreads>(p.size, packets, [&](auto count, int64_t i) {
      float of_x[count.kCount], of_dy[count.kCount], of_weight[count.kCount];
      load(x + i, of_x);
      load(dy + i, of_dy);
      load(weight + i, of_weight);
      RORA_UNROLL
      for (int j = 0; j < count.kCount; ++j) {
        sum += of_dy[j] * of_weight[j] * (of_x[j] * rstd);
      }
    });
    sum = block_sum<kThreads>(sum, reinterpret_cast<float*>(shared_memory()));
    const float mean = sum / static_cast<float>(p.size);
    for_row<T, kThreads>(p.size, packets, [&](auto count, int64_t i) {
      float of_x[count.kCount], of_dy[count.kCount], of_weight[count.kCount];
      load(x + i, of_x);
      load(dy + i, of_dy);
      load(weight + i, of_weight);
      RORA_UNROLL
      for (int j = 0; j < count.kCount; ++j) {
        of_x[j] = (of_dy[j] * of_weight[j] - of_x[j] * rstd * mean) * rstd;
      }
      store(of_x, dx + i);
    });
  }
};

} // namespace rora::kernels::cuda
