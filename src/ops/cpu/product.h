#pragma once

#include "product_tile.h"
#include "unit_product.h"

#include <type_traits>

namespace rora::kernels::RORA_CPU_CAPABILITY {

/// How the depth is cut, and the memory that a thread needs.
template <class T>
struct ProductPlan {
  using W = wide_t<T>;
  int64_t blocks, block_depth;
  Factor<T>* packed_b;
  Factor<T>* packed_a;
  Factor<T>* rows_of_a; ///< the same with each row's depth together, as the matrix unit reads it
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
    const int64_t all_a_bytes = (kOnMatrixUnit<T> ? 2 : 1) * a_bytes;
    char* memory =
        workspace.reserve(b_bytes + all_a_bytes + scratch_bytes + (blocks > 1 ? p.row_block * row_bytes : 0));
    packed_b = reinterpret_cast<Factor<T>*>(memory);
    packed_a = reinterpret_cast<Factor<T>*>(memory + b_bytes);
    rows_of_a = packed_a + (all_a_bytes - a_bytes) / static_cast<int64_t>(sizeof(Factor<T>));
    scratch = reinterpret_cast<Factor<T>*>(memory + b_bytes + all_a_bytes);
    partial = reinterpret_cast<W*>(memory + b_bytes + all_a_bytes + scratch_bytes);
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
      int64_t row = 0;
      if constexpr (kOnMatrixUnit<T>) {
        row = product_on_unit(pieces, panel_, target, rows_);
      }
      switch (panel_.n_registers()) {
        case 1:
          product_rows<kProductRows<1>, 1>(pieces, panel_, target, row, rows_);
          break;
        case 2:
          product_rows<kProductRows<2>, 2>(pieces, panel_, target, row, rows_);
          break;
        case 3:
          product_rows<kProductRows<3>, 3>(pieces, panel_, target, row, rows_);
          break;
        default:
          product_rows<kProductRows<4>, 4>(pieces, panel_, target, row, rows_);
      }
    }
  }

 private:
  DepthPieces<T> next_block(bool packs_a, bool packs_b) {
    DepthPieces<T> pieces;
    Panel<T> b = panel_;
    Panel<T> a{row_begin_, rows_, plan_.packed_a};
    Factor<T>* rows_of_a = plan_.rows_of_a;
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
        if constexpr (kOnMatrixUnit<T>) {
          if (packs_a) {
            to_rows(a, factors, rows_of_a);
          }
          pieces.piece[pieces.count++] = {panel, rows_of_a, factors, 1, factors};
        } else {
          pieces.piece[pieces.count++] = {panel, a.packed, 1, a.stride(), factors};
        }
        a.packed += a.stride() * factors;
        rows_of_a += a.stride() * factors;
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
  [[maybe_unused]] const TilesOf<T> tiles{};
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
