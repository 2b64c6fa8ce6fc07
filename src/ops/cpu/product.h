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
  const auto total = [&](int r, int n) {
    // Blocks of depth are summed each by itself: a long depth rounds less.
    return target.first ? sums[r][n] : load(target.partial + ((row + r) * N + n) * kLanes<W>) + sums[r][n];
  };
  if constexpr (Rows == kRowsStoredAsColumns && kLanes<W> % Rows == 0) {
    if (target.last && target.stores_columns() && panel.columns == N * kLanes<W>) {
      for (int n = 0; n < N; ++n) {
        Vector<W> totals[Rows];
        for (int r = 0; r < Rows; ++r) {
          totals[r] = total(r, n);
        }
        store_columns<Rows, W>(target.p, target.row_begin + row, PanelRegister<W>(panel, n), totals);
      }
      return;
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (int n = 0; n < N; ++n) {
      if (target.last) {
        store_result<T>(target.p, target.row_begin + row + r, PanelRegister<W>(panel, n), total(r, n));
      } else {
        store(target.partial + ((row + r) * N + n) * kLanes<W>, total(r, n));
      }
    }
  }
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

/// How the depth is cut, and the memory that a thread needs.
template <class T>
struct ProductPlan {
  using W = wide_t<T>;
  int64_t blocks, block_depth;
  Factor<T>* packed_b;
  Factor<T>* packed_a;
  Factor<T>* scratch;
  W* partial; ///< `[row_block, columns of a panel]`

  ProductPlan(const ProductParameters& p, Workspace& workspace) {
    constexpr int64_t kMostDepth = ProductParameters::kDepthBytes / static_cast<int64_t>(sizeof(T));
    int64_t depth = 0;
    bool packs_a = false;
    for (int64_t i = 0; i < p.pair_count; ++i) {
      depth += p.pairs[i].depth;
      packs_a = packs_a || p.pairs[i].a.transposed;
    }
    blocks = (depth + kMostDepth - 1) / kMostDepth;
    block_depth = ((depth + blocks - 1) / blocks + 31) / 32 * 32; // all about as deep
    const int64_t column_bytes = block_depth * static_cast<int64_t>(sizeof(T));
    const int64_t columns = panel_columns<T>(p.columns);
    const int64_t b_bytes = columns * column_bytes;
    const int64_t a_bytes = packs_a ? (p.row_block + kLanes<W>)*column_bytes : 0;
    const int64_t scratch_bytes = kLanes<W> * column_bytes;
    const int64_t row_bytes = columns * static_cast<int64_t>(sizeof(W));
    char* memory = workspace.reserve(b_bytes + a_bytes + scratch_bytes + (blocks > 1 ? p.row_block * row_bytes : 0));
    packed_b = reinterpret_cast<Factor<T>*>(memory);
    packed_a = reinterpret_cast<Factor<T>*>(memory + b_bytes);
    scratch = reinterpret_cast<Factor<T>*>(memory + b_bytes + a_bytes);
    partial = reinterpret_cast<W*>(memory + b_bytes + a_bytes + scratch_bytes);
  }
};

/// A block of rows of a panel of C, on its way through the depth of all pairs, a block at a time.
template <class T>
class ProductItem {
 public:
  ProductItem(const ProductParameters& p, const ProductPlan<T>& plan, int64_t row_begin, int64_t column)
      : p_(p), plan_(plan), row_begin_(row_begin) {
    rows_ = row_begin + p.row_block < p.rows ? p.row_block : p.rows - row_begin;
    const int64_t columns = panel_columns<T>(p.columns);
    panel_ = {column, column + columns < p.columns ? columns : p.columns - column, plan.packed_b};
  }

  /// The whole item. What an item before it has packed alike is not packed again.
  void run(bool packs_a, bool packs_b) {
    for (int64_t block = 0; block < plan_.blocks; ++block) {
      const DepthPieces<T> pieces = next_block(packs_a, packs_b);
      const TileTarget<T> target{p_, row_begin_, plan_.partial, block == 0, block + 1 == plan_.blocks};
      switch (panel_.n_registers()) {
        case 1:
          product_rows<kProductRows<1>, 1>(pieces, panel_, target, 0, rows_);
          break;
        case 2:
          product_rows<kProductRows<2>, 2>(pieces, panel_, target, 0, rows_);
          break;
        case 3:
          product_rows<kProductRows<3>, 3>(pieces, panel_, target, 0, rows_);
          break;
        default:
          product_rows<kProductRows<4>, 4>(pieces, panel_, target, 0, rows_);
      }
    }
  }

 private:
  DepthPieces<T> next_block(bool packs_a, bool packs_b) {
    DepthPieces<T> pieces;
    Panel<T> b = panel_;
    Panel<T> a{row_begin_, rows_, plan_.packed_a};
    for (int64_t left = plan_.block_depth; pair_ < p_.pair_count && left > 0;) {
      const ProductParameters::Pair& pair = p_.pairs[pair_];
      const int64_t depth = pair.depth - k_ < left ? pair.depth - k_ : left;
      const int64_t factors = depth / kElementsOfFactor<T>;
      const Factor<T>* panel = b.packed;
      if (pair.packed_b != nullptr) {
        panel = static_cast<const Factor<T>*>(pair.packed_b) +
            (panel_.column * pair.depth + panel_.stride() * k_) / kElementsOfFactor<T>;
      } else {
        if (packs_b) {
          pack(pair.b, pair.b.transposed, k_, depth, b, plan_.scratch);
        }
        b.packed += b.stride() * factors;
      }
      if (pair.a.transposed) {
        if (packs_a) {
          pack(pair.a, /*along_depth=*/false, k_, depth, a, plan_.scratch);
        }
        pieces.piece[pieces.count++] = {panel, a.packed, 1, a.stride(), factors};
        a.packed += a.stride() * factors;
      } else {
        const T* rows = static_cast<const T*>(pair.a.rows.data) + row_begin_ * pair.a.rows.stride + k_;
        pieces.piece[pieces.count++] = {
            panel, reinterpret_cast<const Factor<T>*>(rows), pair.a.rows.stride / kElementsOfFactor<T>, 1, factors};
      }
      left -= depth;
      k_ += depth;
      if (k_ == pair.depth) {
        ++pair_;
        k_ = 0;
      }
    }
    return pieces;
  }

  const ProductParameters& p_;
  const ProductPlan<T>& plan_;
  int64_t row_begin_, rows_;
  Panel<T> panel_;
  int64_t pair_ = 0, k_ = 0; ///< where the next block of depth begins
};

/// Blocks of rows of panels, each over the whole depth. Neighbours of one panel, or of one block of rows, share what is
/// packed, where all of the depth is packed at once.
template <class T>
void product(const ProductParameters& p, int64_t begin, int64_t end) {
  static thread_local Workspace workspace;
  const ProductPlan<T> plan(p, workspace);
  const int64_t columns = panel_columns<T>(p.columns);
  const int64_t panels = (p.columns + columns - 1) / columns;
  const int64_t row_blocks = (p.rows + p.row_block - 1) / p.row_block;
  int64_t packed_panel = -1, packed_rows = -1;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t panel = p.rows_first ? item % panels : item / row_blocks;
    const int64_t rows = p.rows_first ? item / panels : item % row_blocks;
    ProductItem<T>(p, plan, rows * p.row_block, panel * columns)
        .run(plan.blocks > 1 || rows != packed_rows, plan.blocks > 1 || panel != packed_panel);
    packed_panel = panel;
    packed_rows = rows;
  }
}

} // namespace rora::kernels::RORA_CPU_CAPABILITY
