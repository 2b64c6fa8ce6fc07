#pragma once

#include "tiles.h"

namespace rora::kernels::cuda {

/// dx += drop(dshrunk·A) for ranks up to `Rank`, a block 64 rows of as many columns as 256 bytes hold. Reads and writes
/// dx once, which is fetched before the product is formed; reads dshrunk once for each of its row's blocks, and A once
/// for each of its columns'. A is rounded to T where it is float; the sum is rounded to T once.
template <class T, class A, int Rank>
struct LowRankGradientX {
  static constexpr int kThreads = 256;
  static constexpr int kBlocksOfSM = 2;
  static constexpr int kRows = 64;
  static constexpr int kWidth = 256 / static_cast<int>(sizeof(T));
  LowRankGradientXParameters p;
  MatrixView<T> dshrunk;
  MatrixView<A> a;
  MatrixView<T> dx;
  DropoutFactors<T> dropout;

  explicit LowRankGradientX(const LowRankGradientXParameters& p)
      : p(p),
        dshrunk(p.dshrunk, p.rows, p.rank),
        a(p.a, p.rank, p.columns),
        dx(p.dx, p.rows, p.columns),
        dropout(p.p, p.seed) {}

  Geometry geometry() const {
    return {divide_up(p.rows, kRows), divide_up(p.columns, kWidth), kShared};
  }

  RORA_DEVICE void operator()() const {
    T* const left = reinterpret_cast<T*>(shared_memory());
    T* const right = reinterpret_cast<T*>(shared_memory() + LeftTile::kBytes);
    float* const sums = reinterpret_cast<float*>(shared_memory()); // in place of the two
    T* const before = reinterpret_cast<T*>(shared_memory() + kProductBytes);
    const int64_t row = block_x() * kRows, column = block_y() * kWidth;
    LeftTile::bring(dshrunk, row, 0, left);
    bring_a(column, right);
    commit_copies();
    DxTile::bring(dx, row, column, before);
    commit_copies();
    wait_for_copies<1>();
    sync_block();
    const int own_row = warp_index() % 2 * kRowsOfWarp, own_column = warp_index() / 2 * kColumnsOfWarp;
    float sum[kRowsOfWarp / 16][kColumnsOfWarp / 8][4] = {};
    for (int k = 0; k < p.rank; k += 16) {
      multiply_tiles<Layout::kRows, Layout::kRows>(
          sum, left + own_row * LeftTile::kPitch + k, LeftTile::kPitch, right + k * RightTile::kPitch + own_column,
          RightTile::kPitch);
    }
    sync_block(); // the tiles are done with
    for_numbers(sum, [&](int i, int j, float number) { sums[(own_row + i) * kPitchOfSums + own_column + j] = number; });
    wait_for_copies<0>();
    sync_block();
    DxTile::for_pieces([&](int of_row, int of_column) {
      const int64_t i = row + of_row, j = column + of_column;
      const int64_t left_over = i < p.rows ? p.columns - j : 0;
      float factors[kPiece];
      dropout.of(i * p.columns + j, factors);
      const T* from = before + of_row * DxTile::kPitch + of_column;
      Packet<T> packet;
      RORA_UNROLL
      for (int k = 0; k < kPiece; ++k) {
        packet.value[k] = rounded<T>(widen(from[k]) + factors[k] * sums[of_row * kPitchOfSums + of_column + k]);
      }
      T* const to = static_cast<T*>(p.dx.data) + i * p.dx.stride + j;
      if (dx.packets && left_over >= kPiece) {
        *reinterpret_cast<Packet<T>*>(to) = packet;
      } else {
        RORA_UNROLL
        for (int k = 0; k < kPiece; ++k) {
          if (k < left_over) {
            to[k] = packet.value[k];
          }
        }
      }
    });
  }

 private:
  using LeftTile = Tile<T, kRows, Rank, kThreads>;
  using RightTile = Tile<T, Rank, kWidth, kThreads>;
  using DxTile = Tile<T, kRows, kWidth, kThreads>;
  static constexpr int kRowsOfWarp = kRows / 2;
  static constexpr int kColumnsOfWarp = kWidth / (kThreads / kWarp / 2);
  static constexpr int kPiece = Packet<T>::kCount;
  static constexpr int kPitchOfSums = kWidth + 8;
  static constexpr int64_t kTileBytes = LeftTile::kBytes + RightTile::kBytes;
  static constexpr int64_t kSumBytes = int64_t{kRows} * kPitchOfSums * static_cast<int64_t>(sizeof(float));
  static constexpr int64_t kProductBytes = kTileBytes > kSumBytes ? kTileBytes : kSumBytes;
  static constexpr int64_t kShared = kProductBytes + DxTile::kBytes;
  static_assert(kShared <= kMostShared);

  RORA_DEVICE void bring_a(int64_t column, T* to) const {
    if constexpr (std::is_same_v<A, T>) {
      RightTile::bring(a, 0, column, to);
    } else {
      for (int i = thread_index(); i < Rank * kWidth / 2; i += kThreads) {
        const int64_t from_row = i / (kWidth / 2), from = column + i % (kWidth / 2) * 2;
        const uint32_t two = pack(a.at(from_row, from), a.at(from_row, from + 1));
        *reinterpret_cast<uint32_t*>(to + from_row * RightTile::kPitch + i % (kWidth / 2) * 2) = two;
      }
    }
  }
};

} // namespace rora::kernels::cuda
