#pragma once

#include "block_sum.h"
#include "parameters.h"
#include "rows.h"

namespace rora::kernels::cuda {

/// y = h·rstd⊙weight with rstd = 1/√(mean h² + eps), a block a row; h = x + added, rounded to T, where there is
/// `added`, and else x. Reads x, added and weight, and h once more, from the cache; writes y, rstd and, with `added`, h
/// as `sum`. h·rstd is rounded to T before it is scaled, as transformers does.
template <class T>
struct RMSNorm {
  static constexpr int kThreads = 256;
  RMSNormParameters p;
  int64_t rows;
  bool packets;

  RMSNorm(const RMSNormParameters& p, int64_t rows)
      : p(p),
        rows(rows),
        packets(whole_packets<T>(p.size, p.x, p.added, p.sum, p.y, Rows{const_cast<void*>(p.weight), 0})) {}

  Geometry geometry() const {
    return {rows, 1, kThreads / kWarp * static_cast<int64_t>(sizeof(float))};
  }

  RORA_DEVICE void operator()() const {
    const T* x = static_cast<const T*>(p.x.data) + block_x() * p.x.stride;
    const T* weight = static_cast<const T*>(p.weight);
    T* y = static_cast<T*>(p.y.data) + block_x() * p.y.stride;
    float sum = 0.0f;
    if (p.added.data == nullptr) {
      for_row<T, kThreads>(p.size, packets, [&](auto count, int64_t i) {
        float of_x[count.kCount];
        load(x + i, of_x);
        sum += sum_of_squares(of_x);
      });
    } else {
      const T* added = static_cast<const T*>(p.added.data) + block_x() * p.added.stride;
      T* h = static_cast<T*>(p.sum.data) + block_x() * p.sum.stride;
      for_row<T, kThreads>(p.size, packets, [&](auto count, int64_t i) {
        float of_x[count.kCount], of_added[count.kCount];
        load(x + i, of_x);
        load(added + i, of_added);
        RORA_UNROLL
        for (int j = 0; j < count.kCount; ++j) {
          of_x[j] = widen(rounded<T>(of_x[j] + of_added[j]));
        }
        store(of_x, h + i);
        sum += sum_of_squares(of_x);
      });
      x = h; // each thread reads again what it has written itself
    }
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

 private:
  template <int N>
  RORA_DEVICE static float sum_of_squares(const float (&of)[N]) {
    float sum = 0.0f;
    RORA_UNROLL
    for (const float each : of) {
      sum += each * each;
    }
    return sum;
  }
};

/// dx = rstd·(dy⊙weight − x̂·mean(dy⊙weight⊙x̂)) + dsum, x̂ = x·rstd, a block a row. Reads dy and x twice (the second
/// time from the cache), weight, rstd and, where it is there, dsum; writes dx, which may be dsum.
template <class T>
struct RMSNormBackward {
  static constexpr int kThreads = 256;
  RMSNormParameters p;
  int64_t rows;
  bool packets;

  RMSNormBackward(const RMSNormParameters& p, int64_t rows)
      : p(p),
        rows(rows),
        packets(whole_packets<T>(p.size, p.x, p.dy, p.dsum, p.dx, Rows{const_cast<void*>(p.weight), 0})) {}

  Geometry geometry() const {
    return {rows, 1, kThreads / kWarp * static_cast<int64_t>(sizeof(float))};
  }

  RORA_DEVICE void operator()() const {
    const T* x = static_cast<const T*>(p.x.data) + block_x() * p.x.stride;
    const T* dy = static_cast<const T*>(p.dy.data) + block_x() * p.dy.stride;
    const T* weight = static_cast<const T*>(p.weight);
    const T* dsum = p.dsum.data != nullptr ? static_cast<const T*>(p.dsum.data) + block_x() * p.dsum.stride : nullptr;
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
      if (dsum != nullptr) {
        load(dsum + i, of_dy);
        RORA_UNROLL
        for (int j = 0; j < count.kCount; ++j) {
          of_x[j] += of_dy[j];
        }
      }
      store(of_x, dx + i);
    });
  }
};

} // namespace rora::kernels::cuda
