#pragma once

#include "tiles.h"

namespace rora::kernels::cuda {

/// wideᵀ·thin `[columns, rank]` and, `WithB`, wide·B `[rows, rank]`, for ranks up to `Rank`: dB = dyᵀ·Ŝ and dS = dy·B
/// of one pass over dy, dA = (drop(x)ᵀ·dS)ᵀ of one over x. A block owns a strip of columns and goes through a part of
/// the rows, 16 at a time. Of the strip's gradient each warp holds its own columns in registers to the end. For the
/// rows' products each takes 16 ranks, whose B it keeps in registers, and a share of the strip; the shares are added up
/// at once. Reads wide once, thin once a strip and B once a block; writes (`=`) sums of its part of the rows or of its
/// strip, in float. B is rounded to T where it is float.
template <class T, class B, int Rank, bool WithB>
struct LowRankGradient {
  static constexpr int kThreads = 256;
  static constexpr int kBlocksOfSM = WithB && Rank > 32 ? 1 : 2;
  static constexpr int kRows = LowRankGradientParameters::kRows;
  static constexpr int kStrip = static_cast<int>(LowRankGradientParameters::strip(Rank));
  LowRankGradientParameters p;
  MatrixView<T> wide;
  MatrixView<T> thin;
  MatrixView<B> b;
  DropoutFactors<T> dropout;

  explicit LowRankGradient(const LowRankGradientParameters& p)
      : p(p),
        wide(p.wide, p.rows, p.columns),
        thin(p.thin, p.rows, p.rank),
        b(p.b, p.columns, p.rank),
        dropout(p.p, p.seed) {}

  Geometry geometry() const {
    return {divide_up(p.columns, kStrip), p.parts, kShared};
  }

  RORA_DEVICE void operator()() const {
    char* const shared = shared_memory();
    const int64_t column = block_x() * kStrip;
    const int64_t steps = divide_up(p.rows, kRows), steps_of_part = divide_up(steps, p.parts);
    const int64_t first = block_y() * steps_of_part;
    const int64_t last = first + steps_of_part < steps ? first + steps_of_part : steps;
    const auto bring = [&](int64_t step, int buffer) {
      if (step < last) {
        WideTile::bring(wide, step * kRows, column, wide_tile(shared, buffer));
        if (p.gradient != nullptr) {
          ThinTile::bring(thin, step * kRows, 0, thin_tile(shared, buffer));
        }
      }
      commit_copies();
    };
    for (int buffer = 0; buffer < kBuffers - 1; ++buffer) {
      bring(first + buffer, buffer);
    }
    const int own_column = warp_index() * kColumnsOfWarp;
    const int share = warp_index() / kGroups * kDepthOfWarp, rank = warp_index() % kGroups * kRanksOfWarp;
    OfB of_b;
    if constexpr (WithB) {
      of_b.load(b, column + share, rank);
    }
    float gradient[kColumnsOfWarp / 16][Rank / 8][4] = {};
    int buffer = 0, next = kBuffers - 1;
    for (int64_t step = first; step < last; ++step) {
      wait_for_copies<kBuffers - 2>();
      if (dropout.active) {
        WideTile::drop(dropout, step * kRows, column, p.columns, wide_tile(shared, buffer));
      }
      sync_block(); // this buffer is there, and the one before it and the sums done with
      bring(step + kBuffers - 1, next);
      const T* of_wide = wide_tile(shared, buffer);
      if (p.gradient != nullptr) {
        multiply_tiles<Layout::kColumns, Layout::kRows>(
            gradient, of_wide + own_column, WideTile::kPitch, thin_tile(shared, buffer), ThinTile::kPitch);
      }
      if constexpr (WithB) {
        float sum[1][kRanksOfWarp / 8][4] = {};
        of_b.multiply(sum, of_wide + share);
        float* const own = sums(shared) + warp_index() / kGroups * kRows * kPitchOfSums + rank;
        for_numbers(sum, [&](int i, int j, float number) { own[i * kPitchOfSums + j] = number; });
        sync_block();
        write_rows(step * kRows, sums(shared));
      }
      buffer = buffer + 1 < kBuffers ? buffer + 1 : 0;
      next = next + 1 < kBuffers ? next + 1 : 0;
    }
    if (p.gradient != nullptr) {
      float* const of_part = p.gradient + block_y() * p.columns * p.rank;
      for_numbers(gradient, [&](int i, int j, float number) {
        const int64_t to = column + own_column + i;
        if (to < p.columns && j < p.rank) {
          of_part[p.transposed ? j * p.columns + to : to * p.rank + j] = number;
        }
      });
    }
  }

 private:
  using WideTile = Tile<T, kRows, kStrip, kThreads>;
  using ThinTile = Tile<T, kRows, Rank, kThreads>;
  static constexpr int kWarps = kThreads / kWarp;
  static constexpr int kColumnsOfWarp = kStrip / kWarps;
  static constexpr int kRanksOfWarp = 16;
  static constexpr int kGroups = Rank / kRanksOfWarp; ///< warps with the same share
  static constexpr int kShares = kWarps / kGroups;
  static constexpr int kDepthOfWarp = kStrip / kShares;
  static constexpr int kPitchOfSums = Rank + 8;
  static constexpr int64_t kSumBytes =
      WithB ? int64_t{kShares} * kRows * kPitchOfSums * static_cast<int64_t>(sizeof(float)) : 0;
  static constexpr int64_t kBufferBytes = WideTile::kBytes + ThinTile::kBytes;
  static constexpr int kBuffers = buffers_that_fit(kBufferBytes, kSumBytes, 6);
  static constexpr int64_t kShared = kBuffers * kBufferBytes + kSumBytes;
  static_assert(kBuffers >= 2 && kShared <= kMostShared && kColumnsOfWarp % 16 == 0 && kRows == 16);

  /// A warp's part of B: in registers, as right sides of tensor cores.
  struct PackedB {
    uint32_t of[kDepthOfWarp / 16][kRanksOfWarp / 8][2];

    RORA_DEVICE void load(const MatrixView<B>& b, int64_t row, int rank) {
      RORA_UNROLL
      for (int i = 0; i < kDepthOfWarp / 16; ++i) {
        RORA_UNROLL
        for (int j = 0; j < kRanksOfWarp / 8; ++j) {
          RORA_UNROLL
          for (int k = 0; k < 2; ++k) {
            const int64_t at = row + 16 * i + 8 * k + lane_index() % 4 * 2;
            const int column = rank + 8 * j + lane_index() / 4;
            of[i][j][k] = pack(b.at(at, column), b.at(at + 1, column));
          }
        }
      }
    }
    RORA_DEVICE void multiply(float (&sum)[1][kRanksOfWarp / 8][4], const BFloat16* of_wide) const {
      RORA_UNROLL
      for (int i = 0; i < kDepthOfWarp / 16; ++i) {
        uint32_t left[4];
        load_left<Layout::kRows>(left, of_wide + 16 * i, WideTile::kPitch);
        RORA_UNROLL
        for (int j = 0; j < kRanksOfWarp / 8; ++j) {
          multiply_matrices(sum[0][j], left, of[i][j]);
        }
      }
    }
  };
  /// The same of float: where it lies in global memory.
  struct PlainB {
    const MatrixView<B>* b;
    int64_t row;
    int rank;

    RORA_DEVICE void load(const MatrixView<B>& from, int64_t from_row, int from_rank) {
      b = &from;
      row = from_row;
      rank = from_rank;
    }
    RORA_DEVICE void multiply(float (&sum)[1][kRanksOfWarp / 8][4], const float* of_wide) const {
      for (int k = 0; k < kDepthOfWarp; ++k) {
        for_numbers(sum, [&](int i, int j, float& number) {
          number += of_wide[i * WideTile::kPitch + k] * b->at(row + k, rank + j);
        });
      }
    }
  };
  using OfB = std::conditional_t<std::is_same_v<T, float>, PlainB, PackedB>;

  RORA_DEVICE static T* wide_tile(char* shared, int buffer) {
    return reinterpret_cast<T*>(shared + buffer * kBufferBytes);
  }
  RORA_DEVICE static T* thin_tile(char* shared, int buffer) {
    return reinterpret_cast<T*>(shared + buffer * kBufferBytes + WideTile::kBytes);
  }
  RORA_DEVICE static float* sums(char* shared) {
    return reinterpret_cast<float*>(shared + kBuffers * kBufferBytes);
  }

  /// Adds up the shares of `row` and the rows after it.
  RORA_DEVICE void write_rows(int64_t row, const float* shares) const {
    float* const of_strip = p.dshrunk + block_x() * p.rows * p.rank;
    RORA_UNROLL
    for (int i = thread_index(); i < kRows * Rank; i += kThreads) {
      const int64_t to_row = row + i / Rank;
      const int column = i % Rank;
      if (to_row < p.rows && column < p.rank) {
        float total = 0.0f;
        RORA_UNROLL
        for (int share = 0; share < kShares; ++share) {
          total += shares[(share * kRows + i / Rank) * kPitchOfSums + column];
        }
        of_strip[to_row * p.rank + column] = total;
      }
    }
  }
};

} // namespace rora::kernels::cuda
