#pragma once

#include "tiles.h"

namespace rora::kernels::cuda {

/// shrunk = scale·drop(x)·Aᵀ for ranks up to `Rank`. A block takes 64 rows and a part of the columns, through as many
/// buffers as shared memory holds; its warps share the rows and the depth of a buffer, and add up what they found at
/// the end. Reads x once, and A once a block; writes (`=`) shrunk, or a part's sums in float. A is rounded to T where
/// it is float.
template <class T, class A, int Rank>
struct LowRankShrink {
  static constexpr int kThreads = 256;
  static constexpr int kBlocksOfSM = 2;
  static constexpr int kRows = LowRankShrinkParameters::kRows;
  static constexpr int kDepth = 128 / static_cast<int>(sizeof(T)); ///< of a buffer
  LowRankShrinkParameters p;
  MatrixView<T> x;
  MatrixView<A> a;
  DropoutFactors<T> dropout;

  explicit LowRankShrink(const LowRankShrinkParameters& p)
      : p(p), x(p.x, p.rows, p.columns), a(p.a, p.rank, p.columns), dropout(p.p, p.seed) {}

  Geometry geometry() const {
    return {divide_up(p.rows, kRows), p.parts, kShared};
  }

  RORA_DEVICE void operator()() const {
    char* const shared = shared_memory();
    const int64_t row = block_x() * kRows;
    const int64_t steps = divide_up(p.columns, kDepth), steps_of_part = divide_up(steps, p.parts);
    const int64_t first = block_y() * steps_of_part;
    const int64_t last = first + steps_of_part < steps ? first + steps_of_part : steps;
    const auto bring = [&](int64_t step, int buffer) {
      if (step < last) {
        TileOfX::bring(x, row, step * kDepth, tile_of_x(shared, buffer));
        TileOfA::bring(a, 0, step * kDepth, tile_of_a(shared, buffer));
      }
      commit_copies();
    };
    for (int buffer = 0; buffer < kBuffers - 1; ++buffer) {
      bring(first + buffer, buffer);
    }
    const int warp_row = warp_index() / kWarpsAlongDepth * kRowsOfWarp;
    const int warp_depth = warp_index() % kWarpsAlongDepth * kDepthOfWarp;
    float sum[kRowsOfWarp / 16][Rank / 8][4] = {};
    int buffer = 0, next = kBuffers - 1;
    for (int64_t step = first; step < last; ++step) {
      wait_for_copies<kBuffers - 2>();
      if (dropout.active) {
        TileOfX::drop(dropout, row, step * kDepth, p.columns, tile_of_x(shared, buffer));
      }
      sync_block(); // this buffer is there, and the one before it done with
      bring(step + kBuffers - 1, next);
      const T* of_x = tile_of_x(shared, buffer) + warp_row * TileOfX::kPitch + warp_depth;
      const A* of_a = tile_of_a(shared, buffer) + warp_depth;
      RORA_UNROLL
      for (int k = 0; k < kDepthOfWarp; k += 16) {
        multiply_tiles<Layout::kRows, Layout::kColumns>(sum, of_x + k, TileOfX::kPitch, of_a + k, TileOfA::kPitch);
      }
      buffer = buffer + 1 < kBuffers ? buffer + 1 : 0;
      next = next + 1 < kBuffers ? next + 1 : 0;
    }
    wait_for_copies<0>();
    sync_block();
    float* const sums = reinterpret_cast<float*>(shared);
    float* const own = sums + (warp_index() % kWarpsAlongDepth * kRows + warp_row) * kPitchOfSums;
    for_numbers(sum, [&](int i, int j, float number) { own[i * kPitchOfSums + j] = number; });
    sync_block();
    for (int i = thread_index(); i < kRows * Rank; i += kThreads) {
      const int64_t to_row = row + i / Rank;
      const int column = i % Rank;
      if (to_row >= p.rows || column >= p.rank) {
        continue;
      }
      float total = 0.0f;
      RORA_UNROLL
      for (int warp = 0; warp < kWarpsAlongDepth; ++warp) {
        total += sums[(warp * kRows + i / Rank) * kPitchOfSums + column];
      }
      const int64_t to = to_row * p.rank + column;
      if (p.parts == 1) {
        static_cast<T*>(p.shrunk)[to] = rounded<T>(total * static_cast<float>(p.scale));
      } else {
        p.partial[block_y() * p.rows * p.rank + to] = total;
      }
    }
  }

 private:
  using TileOfX = Tile<T, kRows, kDepth, kThreads>;
  using TileOfA = Tile<A, Rank, kDepth, kThreads>;
  // Sums of a warp fill 64 registers at most.
  static constexpr int kWarpsAlongDepth = Rank > 64 ? 2 : kDepth / 16;
  static constexpr int kDepthOfWarp = kDepth / kWarpsAlongDepth;
  static constexpr int kRowsOfWarp = kRows * kWarpsAlongDepth / (kThreads / kWarp);
  static constexpr int kPitchOfSums = Rank + 8;
  static constexpr int64_t kBufferBytes = TileOfX::kBytes + TileOfA::kBytes;
  static constexpr int kBuffers = buffers_that_fit(kBufferBytes, 0, 6);
  static constexpr int64_t kSumBytes =
      int64_t{kWarpsAlongDepth} * kRows * kPitchOfSums * static_cast<int64_t>(sizeof(float));
  static constexpr int64_t kShared = kBuffers * kBufferBytes > kSumBytes ? kBuffers* kBufferBytes : kSumBytes;
  static_assert(kBuffers >= 2 && kShared <= kMostShared && kRowsOfWarp % 16 == 0);

  RORA_DEVICE static T* tile_of_x(char* shared, int buffer) {
    return reinterpret_cast<T*>(shared + buffer * kBufferBytes);
  }
  RORA_DEVICE static A* tile_of_a(char* shared, int buffer) {
    return reinterpret_cast<A*>(shared + buffer * kBufferBytes + TileOfX::kBytes);
  }
};

} // namespace rora::kernels::cuda
