#pragma once

#include "kernels.h"
#include "panel.h"
#include "tile.h"

namespace rora::kernels::RORA_CPU_CAPABILITY {

/// Rows of a tile N registers wide: its sums fill the registers that N columns and a broadcast leave.
template <int N>
constexpr int kProductRows = (kTileRows * kTileVectors) / N;

/// Rows of the tiles that can store the transpose by registers: those of three registers a row.
constexpr int kRowsStoredAsColumns = kProductRows<3>;

constexpr int64_t kLineBytes = 64; ///< of the cache
template <class T>
constexpr int64_t kFactorsOfLine = kLineBytes / static_cast<int64_t>(sizeof(Factor<T>));

/// A stretch of depth of one pair, counted in factors.
template <class T>
struct DepthPiece {
  const Factor<T>* b; ///< packed, of the tile's panel
  const Factor<T>* a; ///< of the block's first row
  int64_t row_stride;
  int64_t depth_stride;
  int64_t depth;
};

template <class T>
struct DepthPieces {
  DepthPiece<T> piece[ProductParameters::kMaxPairs];
  int64_t count = 0;
};

/// Where the sums of a tile come from and go to.
template <class T>
struct TileTarget {
  const ProductParameters& p;
  int64_t row_begin; ///< of the block of rows
  wide_t<T>* partial; ///< of the block's first row
  bool first; ///< nothing is in `partial` yet
  bool last; ///< sums go to C, not to `partial`

  bool stores_columns() const {
    return p.c.transposed && !p.accumulate && p.c.type != Type::kBFloat16;
  }
};

template <class T, class C>
RORA_INLINE void store_as(const ProductParameters& p, int64_t row, int64_t column, int64_t count, Vector<wide_t<T>> v) {
  if (p.c.transposed) {
    C* c = static_cast<C*>(p.c.rows.data) + column * p.c.rows.stride + row;
    for (int64_t i = 0; i < count; ++i, c += p.c.rows.stride) {
      *c = rounded<C>(p.accumulate ? v[i] + widen(*c) : v[i]);
    }
    return;
  }
  C* c = static_cast<C*>(p.c.rows.data) + row * p.c.rows.stride + column;
  store(c, p.accumulate ? v + load(static_cast<const C*>(c), count) : v, count);
}

/// A register of a row of the panel.
template <class W>
struct PanelRegister {
  int64_t column, count; ///< of the columns that it holds

  template <class T>
  PanelRegister(const Panel<T>& panel, int n) : column(panel.column + n * kLanes<W>) {
    const int64_t left = panel.columns - n * kLanes<W>;
    count = left < kLanes<W> ? left : kLanes<W>;
  }
};

template <class W>
RORA_INLINE Vector<W> scaled(const ProductParameters& p, const PanelRegister<W>& at, Vector<W> sums) {
  sums *= static_cast<W>(p.scale);
  return p.column_scale == nullptr ? sums : sums * load(static_cast<const W*>(p.column_scale) + at.column, at.count);
}

/// One register of sums into C.
template <class T>
RORA_INLINE void store_result(
    const ProductParameters& p, int64_t row, const PanelRegister<wide_t<T>>& at, Vector<wide_t<T>> sums) {
  if (p.c.type == p.type) {
    store_as<T, T>(p, row, at.column, at.count, scaled(p, at, sums));
  } else {
    store_as<T, wide_t<T>>(p, row, at.column, at.count, scaled(p, at, sums));
  }
}

/// `Rows` registers of sums, one of each row, into a wide C that is stored as its transpose and holds nothing yet.
/// Element by element, as `store_as` does it, that would take a twentieth of a product of 128 rows.
template <int Rows, class W>
RORA_INLINE void store_columns(
    const ProductParameters& p, int64_t row, const PanelRegister<W>& at, Vector<W> (&sums)[Rows]) {
  constexpr int64_t kColumns = kLanes<W> / Rows;
  for (Vector<W>& each : sums) {
    each = scaled(p, at, each);
  }
  rows_to_columns<Rows, W>(sums);
  W* c = static_cast<W*>(p.c.rows.data) + at.column * p.c.rows.stride + row;
  for (int64_t i = 0; i < kLanes<W>; ++i, c += p.c.rows.stride) {
    __builtin_memcpy(c, reinterpret_cast<const W*>(&sums[i / kColumns]) + i % kColumns * Rows, Rows * sizeof(W));
  }
}

/// Asks for C's part under a tile, so that it has come when the sums are stored: stores that wait for memory, each in
/// its turn, would stop the next tile.
template <int Rows, class T>
RORA_INLINE void fetch_target(const ProductParameters& p, int64_t row, const Panel<T>& panel) {
  const int64_t bytes = p.c.type == Type::kBFloat16 ? 2 : static_cast<int64_t>(sizeof(wide_t<T>));
  const int64_t stride = p.c.rows.stride * bytes;
  const char* c = static_cast<const char*>(p.c.rows.data);
  if (p.c.transposed) {
    c += panel.column * stride + row * bytes;
    for (int64_t i = 0; i < panel.columns; ++i) {
      __builtin_prefetch(c + i * stride, 1);
    }
    return;
  }
  c += row * stride + panel.column * bytes;
  for (int r = 0; r < Rows; ++r) {
    for (int64_t i = 0; i < panel.columns * bytes; i += kLineBytes) {
      __builtin_prefetch(c + r * stride + i, 1);
    }
    __builtin_prefetch(c + r * stride + panel.columns * bytes - 1, 1);
  }
}

/// Where `Rows` rows of the block from `row` on, in N of the panel's `registers` from `first` on, go: `sum(r, n)` is
/// what this block of depth gave of them.
template <int Rows, int N, class T, class Sum>
RORA_INLINE void store_tile(
    const Panel<T>& panel, const TileTarget<T>& target, int64_t row, int64_t first, int64_t registers, const Sum& sum) {
  using W = wide_t<T>;
  W* partial = target.partial + (row * registers + first) * kLanes<W>;
  const auto total = [&](int r, int n) {
    // Blocks of depth are summed each by itself: a long depth rounds less.
    return target.first ? sum(r, n) : load(partial + (r * registers + n) * kLanes<W>) + sum(r, n);
  };
  if constexpr (Rows == kRowsStoredAsColumns && kLanes<W> % Rows == 0) {
    if (target.last && target.stores_columns() && panel.columns >= (first + N) * kLanes<W>) {
      for (int n = 0; n < N; ++n) {
        Vector<W> totals[Rows];
        for (int r = 0; r < Rows; ++r) {
          totals[r] = total(r, n);
        }
        store_columns<Rows, W>(
            target.p, target.row_begin + row, PanelRegister<W>(panel, static_cast<int>(first) + n), totals);
      }
      return;
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (int n = 0; n < N; ++n) {
      if (target.last) {
        const PanelRegister<W> at(panel, static_cast<int>(first) + n);
        store_result<T>(target.p, target.row_begin + row + r, at, total(r, n));
      } else {
        store(partial + (r * registers + n) * kLanes<W>, total(r, n));
      }
    }
  }
}

/// A tile of `Rows` rows of the block from `row` on and the N registers of `panel`.
template <int Rows, int N, class T>
RORA_INLINE void product_tile(
    const DepthPieces<T>& pieces, const Panel<T>& panel, const TileTarget<T>& target, int64_t row) {
  using W = wide_t<T>;
  if (target.last) {
    fetch_target<Rows, T>(target.p, target.row_begin + row, panel);
  }
  Vector<W> sums[Rows][N] = {};
  for (int64_t i = 0; i < pieces.count; ++i) {
    const DepthPiece<T>& piece = pieces.piece[i];
    const Factor<T>* a = piece.a + row * piece.row_stride;
    const Factor<T>* b = piece.b;
    for (int64_t k = 0; k < piece.depth;) {
      // The next tile's rows: they are too short for the processor to foresee.
      for (int r = 0; piece.depth_stride == 1 && r < Rows; ++r) {
        __builtin_prefetch(a + (Rows + r) * piece.row_stride);
      }
      const int64_t stop = k + kFactorsOfLine<T> < piece.depth ? k + kFactorsOfLine<T> : piece.depth;
      for (; k < stop; ++k, a += piece.depth_stride, b += N * kLanes<W>) {
        for (int r = 0; r < Rows; ++r) {
          for (int n = 0; n < N; ++n) {
            sums[r][n] = multiply_add<W>(sums[r][n], a[r * piece.row_stride], b + n * kLanes<W>);
          }
        }
      }
    }
  }
  store_tile<Rows, N>(panel, target, row, 0, N, [&](int r, int n) { return sums[r][n]; });
}

/// Rows [row, end) of the block in a panel of C.
template <int Rows, int N, class T>
void product_rows(
    const DepthPieces<T>& pieces, const Panel<T>& panel, const TileTarget<T>& target, int64_t row, int64_t end) {
  for (; row + Rows <= end; row += Rows) {
    product_tile<Rows, N, T>(pieces, panel, target, row);
  }
  if constexpr (Rows > 1) {
    if (row < end) {
      product_rows<Rows / 2, N, T>(pieces, panel, target, row, end);
    }
  }
}

} // namespace rora::kernels::RORA_CPU_CAPABILITY
