#pragma once

#include "dropout.h"
#include "matrix.h"
#include "parameters.h"

#include <type_traits>

// Parts of matrices in shared memory, and products of them by a warp: of bfloat16 on tensor cores, of float by plain
// multiplications whose sums lie with the same lanes.

namespace rora::kernels::cuda {

/// A matrix in global memory, its rows dense.
template <class T>
struct MatrixView {
  const T* data;
  int64_t stride;
  int64_t rows, columns;
  bool packets;

  MatrixView(const Rows& from, int64_t rows, int64_t columns)
      : data(static_cast<const T*>(from.data)),
        stride(from.stride),
        rows(rows),
        columns(columns),
        packets(fits_packets<T>(from.data, from.stride)) {}

  /// 0 outside.
  RORA_DEVICE float at(int64_t row, int64_t column) const {
    return row < rows && column < columns ? widen(data[row * stride + column]) : 0.0f;
  }
};

/// `Height`×`Width` of a matrix in shared memory, brought there by `Threads` in pieces of 16 bytes. Rows lie 8 numbers
/// farther apart than they are long, so that what a warp reads at once of several lies in different banks.
template <class T, int Height, int Width, int Threads>
struct Tile {
  static constexpr int kPiece = Packet<T>::kCount;
  static constexpr int kPitch = Width + 8;
  static constexpr int64_t kBytes = int64_t{Height} * kPitch * static_cast<int64_t>(sizeof(T));
  static_assert(Width % kPiece == 0);

  /// Begins to bring what lies at (row, column) of `from`, 0 outside of it. Each thread's own pieces are there after
  /// its `wait_for_copies`.
  RORA_DEVICE static void bring(const MatrixView<T>& from, int64_t row, int64_t column, T* tile) {
    RORA_UNROLL
    for (int piece = thread_index(); piece < kPieces; piece += Threads) {
      const int64_t i = row + piece / kPiecesOfRow, j = column + piece % kPiecesOfRow * kPiece;
      T* to = tile + piece / kPiecesOfRow * kPitch + piece % kPiecesOfRow * kPiece;
      const int64_t left = i < from.rows ? from.columns - j : 0;
      const int count = left >= kPiece ? kPiece : left > 0 ? static_cast<int>(left) : 0;
      const T* source = count > 0 ? from.data + i * from.stride + j : from.data;
      if (from.packets) {
        copy_later(to, source, count * static_cast<int>(sizeof(T)));
      } else {
        RORA_UNROLL
        for (int k = 0; k < kPiece; ++k) {
          to[k] = k < count ? source[k] : T{};
        }
      }
    }
  }

  /// Drops this thread's own pieces of what lies at (row, column) of a matrix with `columns`.
  RORA_DEVICE static void drop(
      const DropoutFactors<T>& dropout, int64_t row, int64_t column, int64_t columns, T* tile) {
    for_pieces([&](int i, int j) {
      float factors[kPiece];
      dropout.of((row + i) * columns + column + j, factors);
      auto* at = reinterpret_cast<Packet<T>*>(tile + i * kPitch + j);
      Packet<T> packet = *at;
      RORA_UNROLL
      for (int k = 0; k < kPiece; ++k) {
        packet.value[k] = rounded<T>(widen(packet.value[k]) * factors[k]);
      }
      *at = packet;
    });
  }

  /// Calls f(row, column) for each of this thread's own pieces.
  template <class F>
  RORA_DEVICE static void for_pieces(F f) {
    RORA_NO_UNROLL // a piece has words of Philox enough that wait for no other, and registers are the products'
        for (int piece = thread_index(); piece < kPieces; piece += Threads) {
      f(piece / kPiecesOfRow, piece % kPiecesOfRow * kPiece);
    }
  }

 private:
  static constexpr int kPiecesOfRow = Width / kPiece;
  static constexpr int kPieces = Height * kPiecesOfRow;
};

/// How a matrix lies in shared memory: by rows `pitch` apart, or its transpose does.
enum class Layout { kRows, kColumns };

/// A left side `[16, 16]` as `multiply_matrices` takes it.
template <Layout layout>
RORA_DEVICE void load_left(uint32_t (&a)[4], const BFloat16* from, int pitch) {
  const int lane = lane_index();
  if constexpr (layout == Layout::kRows) {
    load_matrices(a, from + lane % 16 * pitch + lane / 16 * 8);
  } else {
    load_matrices_transposed(a, from + (lane % 8 + lane / 16 * 8) * pitch + lane / 8 % 2 * 8);
  }
}

/// Two right sides `[16, 8]` beside each other.
template <Layout layout>
RORA_DEVICE void load_right(uint32_t (&b)[2][2], const BFloat16* from, int pitch) {
  const int lane = lane_index();
  uint32_t all[4];
  if constexpr (layout == Layout::kColumns) {
    load_matrices(all, from + (lane % 8 + lane / 16 * 8) * pitch + lane / 8 % 2 * 8);
  } else {
    load_matrices_transposed(all, from + lane % 16 * pitch + lane / 16 * 8);
  }
  RORA_UNROLL
  for (int i = 0; i < 4; ++i) {
    b[i / 2][i % 2] = all[i];
  }
}
/// The same of float, rounded.
template <Layout layout>
RORA_DEVICE void load_right(uint32_t (&b)[2][2], const float* from, int pitch) {
  static_assert(layout == Layout::kColumns);
  RORA_UNROLL
  for (int i = 0; i < 4; ++i) {
    const float* two = from + (lane_index() / 4 + i / 2 * 8) * pitch + lane_index() % 4 * 2 + i % 2 * 8;
    struct alignas(8) Two {
      float low, high;
    };
    const Two both = *reinterpret_cast<const Two*>(two);
    b[i / 2][i % 2] = pack(both.low, both.high);
  }
}

/// c `[16·Rows, 8·Columns]` += left `[16·Rows, 16]`·right `[16, 8·Columns]`: c[i][j] is as `multiply_matrices` holds
/// it.
template <Layout of_left, Layout of_right, int Rows, int Columns, class Right>
RORA_DEVICE void multiply_tiles(
    float (&c)[Rows][Columns][4], const BFloat16* left, int left_pitch, const Right* right, int right_pitch) {
  static_assert(Columns % 2 == 0);
  uint32_t a[Rows][4];
  RORA_UNROLL
  for (int i = 0; i < Rows; ++i) {
    load_left<of_left>(a[i], left + 16 * i * (of_left == Layout::kRows ? left_pitch : 1), left_pitch);
  }
  RORA_UNROLL
  for (int j = 0; j < Columns; j += 2) {
    uint32_t b[2][2];
    load_right<of_right>(b, right + 8 * j * (of_right == Layout::kColumns ? right_pitch : 1), right_pitch);
    RORA_UNROLL
    for (int i = 0; i < Rows; ++i) {
      multiply_matrices(c[i][j], a[i], b[0]);
      multiply_matrices(c[i][j + 1], a[i], b[1]);
    }
  }
}
template <Layout of_left, Layout of_right, int Rows, int Columns>
RORA_DEVICE void multiply_tiles(
    float (&c)[Rows][Columns][4], const float* left, int left_pitch, const float* right, int right_pitch) {
  const int row = lane_index() / 4, column = lane_index() % 4 * 2;
  for (int k = 0; k < 16; ++k) {
    float b[2 * Columns];
    RORA_UNROLL
    for (int j = 0; j < 2 * Columns; ++j) {
      const int at = column + j / 2 * 8 + j % 2;
      b[j] = of_right == Layout::kRows ? right[k * right_pitch + at] : right[at * right_pitch + k];
    }
    RORA_UNROLL
    for (int i = 0; i < 2 * Rows; ++i) {
      const int at = row + i * 8;
      const float a = of_left == Layout::kRows ? left[at * left_pitch + k] : left[k * left_pitch + at];
      RORA_UNROLL
      for (int j = 0; j < 2 * Columns; ++j) {
        c[i / 2][j / 2][i % 2 * 2 + j % 2] += a * b[j];
      }
    }
  }
}

/// Calls f(row, column, number) for each of this lane's numbers of a product.
template <int Rows, int Columns, class F>
RORA_DEVICE void for_numbers(float (&c)[Rows][Columns][4], F f) {
  RORA_UNROLL
  for (int i = 0; i < Rows; ++i) {
    RORA_UNROLL
    for (int j = 0; j < Columns; ++j) {
      RORA_UNROLL
      for (int k = 0; k < 4; ++k) {
        f(16 * i + k / 2 * 8 + lane_index() / 4, 8 * j + lane_index() % 4 * 2 + k % 2, c[i][j][k]);
      }
    }
  }
}

/// As many buffers as fit, at most `most`, into the shared memory of which an SM of sm_90 has two blocks' and one of
/// sm_80 one block's.
constexpr int64_t kMostShared = 99 << 10;
constexpr int buffers_that_fit(int64_t bytes, int64_t beside, int most) {
  const int64_t fit = (kMostShared - beside) / bytes;
  return static_cast<int>(fit < most ? fit : most);
}

} // namespace rora::kernels::cuda
