#pragma once

#include "parameters.h"
#include "rows.h"

namespace rora::kernels::cuda {

/// Sums over the warps of a block, in their order: `sums[j]` of each lane of the first warp becomes that of all warps.
/// `memory` holds N floats for each thread.
template <int Threads, int N>
RORA_DEVICE void sum_warps(float (&sums)[N], float* memory) {
  RORA_UNROLL
  for (int j = 0; j < N; ++j) {
    memory[j * Threads + thread_index()] = sums[j];
  }
  sync_block();
  if (warp_index() == 0) {
    RORA_UNROLL
    for (int j = 0; j < N; ++j) {
      RORA_UNROLL
      for (int warp = 1; warp < Threads / kWarp; ++warp) {
        sums[j] += memory[j * Threads + warp * kWarp + lane_index()];
      }
    }
  }
}

/// Σ over the rows of a part of a⊙b, by column, and a⊙scale, whichever is asked for: the parts are `kRowsOfPart` rows
/// each, and their sums go to `part_sums`, or to `sums` where there is one part. A block takes a part of 32 packets of
/// columns; a warp takes every eighth of its rows. Reads a and b once.
template <class T>
struct ColumnSum {
  static constexpr int kThreads = 256;
  static constexpr int kWarps = kThreads / kWarp;
  static constexpr int kAtOnce = 4; ///< rows that a thread fetches before it adds the first
  ColumnSumParameters p;
  int64_t parts;
  bool packets;

  explicit ColumnSum(const ColumnSumParameters& p)
      : p(p), parts(ColumnSumParameters::parts(p.rows)), packets(whole_packets<T>(p.columns, p.a, p.b, p.scaled)) {}

  Geometry geometry() const {
    const int64_t count = packets ? Packet<T>::kCount : 1;
    return {parts, divide_up(p.columns, kWarp * count), kThreads * count * static_cast<int64_t>(sizeof(float))};
  }

  RORA_DEVICE void operator()() const {
    if (packets) {
      sum<Packet<T>::kCount>();
    } else {
      sum<1>();
    }
  }

 private:
  template <int N>
  RORA_DEVICE void sum() const {
    constexpr int64_t kRows = ColumnSumParameters::kRowsOfPart;
    const int64_t column = (block_y() * kWarp + lane_index()) * N;
    const int64_t begin = block_x() * kRows;
    const int64_t end = begin + kRows < p.rows ? begin + kRows : p.rows;
    const bool has_sums = p.b.data != nullptr;
    float sums[N] = {};
    if (column < p.columns) {
      const T* a = static_cast<const T*>(p.a.data) + column;
      const T* b = has_sums ? static_cast<const T*>(p.b.data) + column : a; // has been read then
      const int64_t b_stride = has_sums ? p.b.stride : p.a.stride;
      float scale[N];
      RORA_UNROLL
      for (int j = 0; j < N; ++j) {
        scale[j] = p.scale != nullptr ? p.scale[column + j] : 0.0f;
      }
      int64_t row = begin + warp_index();
      for (; row + (kAtOnce - 1) * kWarps < end; row += kAtOnce * kWarps) {
        Stretch<T, N> of_a[kAtOnce], of_b[kAtOnce];
        RORA_UNROLL
        for (int k = 0; k < kAtOnce; ++k) {
          of_a[k] = fetch<N>(a + (row + k * kWarps) * p.a.stride);
          of_b[k] = fetch<N>(b + (row + k * kWarps) * b_stride);
        }
        RORA_UNROLL
        for (int k = 0; k < kAtOnce; ++k) {
          add(of_a[k], of_b[k], sums);
          put_scaled(of_a[k], scale, row + k * kWarps, column);
        }
      }
      for (; row < end; row += kWarps) {
        const Stretch<T, N> of_a = fetch<N>(a + row * p.a.stride);
        add(of_a, fetch<N>(b + row * b_stride), sums);
        put_scaled(of_a, scale, row, column);
      }
    }
    if (!has_sums) {
      return;
    }
    sum_warps<kThreads>(sums, reinterpret_cast<float*>(shared_memory()));
    if (warp_index() == 0 && column < p.columns) {
      float* to = parts == 1 ? static_cast<float*>(p.sums) : p.part_sums + block_x() * p.columns;
      RORA_UNROLL
      for (int j = 0; j < N; ++j) {
        to[column + j] = sums[j];
      }
    }
  }

  template <int N>
  RORA_DEVICE void put_scaled(const Stretch<T, N>& a, const float (&scale)[N], int64_t row, int64_t column) const {
    if (p.scale == nullptr) {
      return;
    }
    float product[N];
    RORA_UNROLL
    for (int j = 0; j < N; ++j) {
      product[j] = widen(a.value[j]) * scale[j];
    }
    store(product, static_cast<T*>(p.scaled.data) + row * p.scaled.stride + column);
  }

  template <int N>
  static RORA_DEVICE void add(const Stretch<T, N>& a, const Stretch<T, N>& b, float (&sums)[N]) {
    RORA_UNROLL
    for (int j = 0; j < N; ++j) {
      sums[j] += widen(a.value[j]) * widen(b.value[j]);
    }
  }
};

/// sums = Σ over parts of `part_sums`, by column: 32 columns a block, every eighth part a warp. Nothing where there is
/// one part, whose sums are there already; zeros where there is none.
struct ColumnSumOfParts {
  static constexpr int kThreads = 256;
  static constexpr int kWarps = kThreads / kWarp;
  ColumnSumParameters p;
  int64_t parts;

  explicit ColumnSumOfParts(const ColumnSumParameters& p) : p(p), parts(ColumnSumParameters::parts(p.rows)) {}

  Geometry geometry() const {
    return {parts == 1 ? 0 : divide_up(p.columns, kWarp), 1, kThreads * static_cast<int64_t>(sizeof(float))};
  }

  RORA_DEVICE void operator()() const {
    const int64_t column = block_x() * kWarp + lane_index();
    float sums[1] = {};
    if (column < p.columns) {
      for (int64_t part = warp_index(); part < parts; part += kWarps) {
        sums[0] += p.part_sums[part * p.columns + column];
      }
    }
    sum_warps<kThreads>(sums, reinterpret_cast<float*>(shared_memory()));
    if (warp_index() == 0 && column < p.columns) {
      static_cast<float*>(p.sums)[column] = sums[0];
    }
  }
};

} // namespace rora::kernels::cuda
