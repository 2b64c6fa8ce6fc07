#pragma once

#include "matrix_unit.h"
#include "product_tile.h"

namespace rora::kernels::RORA_CPU_CAPABILITY {

#if RORA_HAS_MATRIX_UNIT
/// 16·RowTiles rows of the block from `row` on and N of the panel's registers from `first` on, by the matrix unit.
template <int RowTiles, int N>
void product_on_unit(
    const DepthPieces<BFloat16>& pieces, const Panel<BFloat16>& panel, const TileTarget<BFloat16>& target, int64_t row,
    int64_t first) {
  constexpr int kRows = RowTiles * kUnitSide, kColumns = N * kUnitSide;
  static_assert(kLanes<float> == kUnitSide && kRows % kRowsStoredAsColumns == 0);
  const int64_t ldb = panel.stride();
  alignas(64) float sums[kRows * kColumns];
  using Sums = UnitSums<RowTiles, N>;
  Sums::clear();
  for (int64_t i = 0; i < pieces.count; ++i) {
    const DepthPiece<BFloat16>& piece = pieces.piece[i];
    const int64_t whole = piece.depth - piece.depth % kUnitSide;
    Sums::add(piece.a + row * piece.row_stride, piece.row_stride, piece.b + first * kUnitSide, ldb, whole);
  }
  Sums::store(sums, kColumns);
  for (int64_t i = 0; i < pieces.count; ++i) { // the depth that fills no tile
    const DepthPiece<BFloat16>& piece = pieces.piece[i];
    for (int64_t k = piece.depth - piece.depth % kUnitSide; k < piece.depth; ++k) {
      for (int r = 0; r < kRows; ++r) {
        for (int n = 0; n < N; ++n) {
          float* at = sums + r * kColumns + n * kUnitSide;
          const BFloat16Pair a = piece.a[(row + r) * piece.row_stride + k];
          store(at, multiply_add<float>(load(at), a, piece.b + k * ldb + (first + n) * kUnitSide));
        }
      }
    }
  }
  for (int r = 0; r < kRows; r += kRowsStoredAsColumns) {
    store_tile<kRowsStoredAsColumns, N>(panel, target, row + r, first, panel.n_registers(), [&](int i, int n) {
      return load(sums + (r + i) * kColumns + n * kUnitSide);
    });
  }
}

template <int RowTiles>
void product_rows_on_unit(
    const DepthPieces<BFloat16>& pieces, const Panel<BFloat16>& panel, const TileTarget<BFloat16>& target,
    int64_t row) {
  const int64_t registers = panel.n_registers();
  for (int64_t first = 0; first < registers; first += 2) {
    if (first + 2 <= registers) {
      product_on_unit<RowTiles, 2>(pieces, panel, target, row, first);
    } else {
      product_on_unit<RowTiles, 1>(pieces, panel, target, row, first);
    }
  }
}

/// As many of the block's `rows` in a panel of C as fill tiles of the matrix unit; returns how many.
inline int64_t product_on_unit(
    const DepthPieces<BFloat16>& pieces, const Panel<BFloat16>& panel, const TileTarget<BFloat16>& target,
    int64_t rows) {
  int64_t row = 0;
  for (; row + 2 * kUnitSide <= rows; row += 2 * kUnitSide) {
    product_rows_on_unit<2>(pieces, panel, target, row);
  }
  if (row + kUnitSide <= rows) {
    product_rows_on_unit<1>(pieces, panel, target, row);
    row += kUnitSide;
  }
  return row;
}
#endif

} // namespace rora::kernels::RORA_CPU_CAPABILITY
