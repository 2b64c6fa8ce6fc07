#pragma once

#include "kernels.h"
#include "tile.h"

#include <type_traits>

namespace rora::kernels::RORA_CPU_CAPABILITY {

constexpr int kPanelVectors = 3;

/// Rows of a tile N registers wide: its sums fill the registers that N columns and a broadcast leave.
template <int N>
constexpr int kProductRows = kTileRows * kTileVectors / N;

/// Rows that are worked on before the next panel: whole tiles of every width.
constexpr int64_t kRowChunk = kProductRows<1>;

/// What elements of type T are multiplied as.
template <class T>
using Factor = std::conditional_t<kHasPairs && std::is_same_v<T, BFloat16>, BFloat16Pair, T>;
/// What the right side is packed as.
template <class T>
using Packed = std::conditional_t<kHasPairs && std::is_same_v<T, BFloat16>, BFloat16Pair, wide_t<T>>;
template <class T>
constexpr int64_t kElementsOfFactor = static_cast<int64_t>(sizeof(Factor<T>) / sizeof(T));

/// A stretch of depth of one pair of matrices, counted in factors of T.
template <class T>
struct DepthPiece {
  const Factor<T>* a;
  int64_t a_stride;
  int64_t depth;
};

template <class T>
struct DepthPieces {
  DepthPiece<T> piece[ProductParameters::kMaxPairs];
  int64_t count = 0;
};

/// Columns [column, column + columns) of C: those of one tile.
template <class T>
struct Panel {
  int64_t column, columns, n_registers;
  Packed<T>* packed; ///< its part of B
};

/// Where the sums of a tile come from and go to.
template <class T>
struct TileTarget {
  const ProductParameters& p;
  wide_t<T>* partial; ///< of the first row's first sum
  int64_t partial_stride;
  bool first; ///< nothing is in `partial` yet
  bool last; ///< sums go to C, not to `partial`
};

template <class T, class C>
RORA_INLINE void store_as(
    const ProductParameters& p, int64_t row, int64_t column, int64_t count, Vector<wide_t<T>> v) {
  C* c = static_cast<C*>(p.c.data) + row * p.c.stride + column;
  store(c, p.accumulate ? v + load(static_cast<const C*>(c), count) : v, count);
}

/// One register of sums into C, the n-th of its panel.
template <class T>
RORA_INLINE void store_result(
    const ProductParameters& p, int64_t row, const Panel<T>& panel, int n, Vector<wide_t<T>> sums) {
  using W = wide_t<T>;
  const int64_t column = panel.column + n * kLanes<W>;
  const int64_t left = panel.columns - n * kLanes<W>;
  const int64_t count = left < kLanes<W> ? left : kLanes<W>;
  Vector<W> v = sums * static_cast<W>(p.scale);
  if (p.column_scale != nullptr) {
    v *= load(static_cast<const W*>(p.column_scale) + column, count);
  }
  if (p.c_wide) {
    store_as<T, W>(p, row, column, count, v);
  } else {
    store_as<T, T>(p, row, column, count, v);
  }
}

/// A tile of `Rows` rows of C from `row` on and the N registers of `panel`; `partial` is that of its first row.
template <int Rows, int N, class T>
RORA_INLINE void product_tile(
    const DepthPieces<T>& pieces, const Panel<T>& panel, const TileTarget<T>& target, wide_t<T>* partial, int64_t row) {
  using W = wide_t<T>;
  Vector<W> sums[Rows][N] = {};
  const Packed<T>* b = panel.packed;
  for (int64_t i = 0; i < pieces.count; ++i) {
    const DepthPiece<T>& piece = pieces.piece[i];
    const Factor<T>* a = piece.a + row * piece.a_stride;
    for (int64_t k = 0; k < piece.depth; ++k, b += N * kLanes<W>) {
      for (int r = 0; r < Rows; ++r) {
        for (int n = 0; n < N; ++n) {
          sums[r][n] = multiply_add<W>(sums[r][n], a[r * piece.a_stride + k], b + n * kLanes<W>);
        }
      }
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (int n = 0; n < N; ++n) {
      // Blocks are summed each by itself: a long depth rounds less.
      W* before = partial + r * target.partial_stride + n * kLanes<W>;
      const Vector<W> sum = target.first ? sums[r][n] : load(before) + sums[r][n];
      if (target.last) {
        store_result<T>(target.p, row + r, panel, n, sum);
      } else {
        store(before, sum);
      }
    }
  }
}

template <int Rows, int N, class T>
void product_rows(
    const DepthPieces<T>& pieces, const Panel<T>& panel, const TileTarget<T>& target, wide_t<T>* partial, int64_t row,
    int64_t rows) {
  int64_t r = 0;
  for (; r + Rows <= rows; r += Rows) {
    product_tile<Rows, N, T>(pieces, panel, target, partial + r * target.partial_stride, row + r);
  }
  if constexpr (Rows > 1) {
    if (r < rows) {
      product_rows<Rows / 2, N, T>(
          pieces, panel, target, partial + r * target.partial_stride, row + r, rows - r);
    }
  }
}

/// `rows` rows of a panel of C from `row` on.
template <class T>
void product_panel(
    const DepthPieces<T>& pieces, const Panel<T>& panel, const TileTarget<T>& target, int64_t row, int64_t rows) {
  switch (panel.n_registers) {
    case 1:
      return product_rows<kProductRows<1>, 1>(pieces, panel, target, target.partial, row, rows);
    case 2:
      return product_rows<kProductRows<2>, 2>(pieces, panel, target, target.partial, row, rows);
    default:
      return product_rows<kProductRows<3>, 3>(pieces, panel, target, target.partial, row, rows);
  }
}

/// `count` elements as upper halves of words.
RORA_INLINE Words half_words(const BFloat16* p, int64_t count) {
  BFloat16 buffer[kFloatLanes] = {};
  const BFloat16* from = p;
  if (count < kFloatLanes) {
    __builtin_memcpy(buffer, p, static_cast<size_t>(count) * sizeof(BFloat16));
    from = buffer;
  }
  HalfWords half;
  __builtin_memcpy(&half, from, sizeof(half));
  return __builtin_convertvector(half, Words);
}
RORA_INLINE Words half_words(const float* p, int64_t count) {
  return __builtin_convertvector(round_to_bfloat16(load(p, count)), Words);
}

/// Packs a panel of B `[depth, columns]`, whose columns are dense, into rows of its registers; columns it lacks are 0.
/// depth counts elements.
template <class T, class B>
void pack_rows(const B* b, int64_t ldb, int64_t depth, const Panel<T>& panel) {
  using W = wide_t<T>;
  constexpr int64_t kRowsAhead = 32; // rows lie too far apart for the processor to foresee
  Packed<T>* out = panel.packed;
  for (int64_t k = 0; k < depth; k += kElementsOfFactor<T>) {
    for (int64_t row = k + kRowsAhead; row < depth && row < k + kRowsAhead + kElementsOfFactor<T>; ++row) {
      __builtin_prefetch(b + row * ldb);
      __builtin_prefetch(b + row * ldb + panel.columns - 1);
    }
    for (int64_t n = 0; n < panel.n_registers; ++n, out += kLanes<W>) {
      const int64_t left = panel.columns - n * kLanes<W>;
      const int64_t count = left < kLanes<W> ? left : kLanes<W>;
      const B* from = b + k * ldb + n * kLanes<W>;
      if constexpr (std::is_same_v<Packed<T>, BFloat16Pair>) {
        const Words pair = half_words(from, count) | (half_words(from + ldb, count) << 16);
        __builtin_memcpy(out, &pair, sizeof(pair));
      } else {
        store(out, load(from, count));
      }
    }
  }
}

/// The same of B given as its transpose `[columns, depth]`; `scratch` holds kLanes<W>·depth factors.
template <class T, class B>
void pack_columns(const B* b, int64_t ldb, int64_t depth, const Panel<T>& panel, Packed<T>* scratch) {
  using W = wide_t<T>;
  constexpr bool kPairs = std::is_same_v<Packed<T>, BFloat16Pair>;
  constexpr bool kStoredAsMultiplied = std::is_same_v<B, std::conditional_t<kPairs, T, W>>;
  const int64_t factors = depth / kElementsOfFactor<T>;
  for (int64_t n = 0; n < panel.n_registers; ++n) {
    const B* first = b + n * kLanes<W> * ldb;
    const int64_t left = panel.columns - n * kLanes<W>;
    const void* square = first;
    int64_t stride = ldb / kElementsOfFactor<T>;
    if (!kStoredAsMultiplied || left < kLanes<W>) {
      using Element = std::conditional_t<kPairs, T, W>;
      Element* to = reinterpret_cast<Element*>(scratch);
      for (int64_t column = 0; column < kLanes<W>; ++column, to += depth) {
        if (column >= left) {
          __builtin_memset(to, 0, static_cast<size_t>(depth) * sizeof(Element));
          continue;
        }
        for_registers<W>(depth, [&](int64_t k, int64_t count) { store(to + k, load(first + column * ldb + k, count), count); });
      }
      square = scratch;
      stride = factors;
    }
    // Pairs are moved as the floats whose bits they are.
    transpose(
        static_cast<const W*>(square), stride, reinterpret_cast<W*>(panel.packed) + n * kLanes<W>,
        panel.n_registers * kLanes<W>, kLanes<W>, factors);
  }
}

template <class T, class B>
void pack(const ProductParameters::Pair& pair, int64_t k, int64_t depth, const Panel<T>& panel, Packed<T>* scratch) {
  const B* b = static_cast<const B*>(pair.b.data);
  if (pair.b_transposed) {
    pack_columns<T>(b + panel.column * pair.b.stride + k, pair.b.stride, depth, panel, scratch);
  } else {
    pack_rows<T>(b + k * pair.b.stride + panel.column, pair.b.stride, depth, panel);
  }
}

template <class T>
struct Strip {
  static constexpr int64_t kPanel = kPanelVectors * kLanes<wide_t<T>>;
  static constexpr int64_t kColumns = ProductParameters::kStripPanels * kPanel;
  Panel<T> panel[ProductParameters::kStripPanels];
  int64_t count = 0;

  /// The panels from `column` on; each holds `depth` elements of each column.
  Strip(const ProductParameters& p, int64_t column, int64_t depth, Packed<T>* packed) {
    const int64_t end = column + kColumns < p.columns ? column + kColumns : p.columns;
    for (; column < end; column += kPanel, packed += kPanel * (depth / kElementsOfFactor<T>)) {
      const int64_t columns = end - column < kPanel ? end - column : kPanel;
      panel[count++] = {column, columns, (columns + kLanes<wide_t<T>> - 1) / kLanes<wide_t<T>>, packed};
    }
  }
};

/// A place in the depth of all pairs.
struct DepthPosition {
  int64_t pair = 0, k = 0;
};

/// The next `block_depth` elements of depth from `position` on, which moves past them; B's are packed where asked.
template <class T>
DepthPieces<T> next_block(
    const ProductParameters& p, const Strip<T>& strip, DepthPosition& position, int64_t block_depth, bool packs,
    Packed<T>* scratch) {
  DepthPieces<T> pieces;
  int64_t packed_depth = 0; // in factors
  while (position.pair < p.pair_count && block_depth > 0) {
    const ProductParameters::Pair& pair = p.pairs[position.pair];
    const int64_t left = pair.depth - position.k;
    const int64_t depth = left < block_depth ? left : block_depth;
    pieces.piece[pieces.count++] = {
        reinterpret_cast<const Factor<T>*>(static_cast<const T*>(pair.a.data) + position.k),
        pair.a.stride / kElementsOfFactor<T>, depth / kElementsOfFactor<T>};
    for (int64_t i = 0; packs && i < strip.count; ++i) {
      Panel<T> rest = strip.panel[i];
      rest.packed += packed_depth * rest.n_registers * kLanes<wide_t<T>>;
      if (pair.b_wide) {
        pack<T, wide_t<T>>(pair, position.k, depth, rest, scratch);
      } else {
        pack<T, T>(pair, position.k, depth, rest, scratch);
      }
    }
    packed_depth += depth / kElementsOfFactor<T>;
    block_depth -= depth;
    position = depth == left ? DepthPosition{position.pair + 1, 0} : DepthPosition{position.pair, position.k + depth};
  }
  return pieces;
}

/// A strip of a block of rows, all depth. Blocks of rows of one strip follow each other and share what is packed, where
/// all of the depth is packed at once.
template <class T>
void product(const ProductParameters& p, int64_t begin, int64_t end) {
  using W = wide_t<T>;
  constexpr int64_t kFactorBytes = static_cast<int64_t>(sizeof(Packed<T>));
  constexpr int64_t kMostDepth = ProductParameters::kDepthBytes / static_cast<int64_t>(sizeof(T));
  int64_t whole_depth = 0;
  for (int64_t i = 0; i < p.pair_count; ++i) {
    whole_depth += p.pairs[i].depth;
  }
  const int64_t blocks = (whole_depth + kMostDepth - 1) / kMostDepth;
  const int64_t block_depth = ((whole_depth + blocks - 1) / blocks + 31) / 32 * 32; // all blocks about as deep

  static thread_local Workspace workspace;
  const int64_t packed_bytes = Strip<T>::kColumns * (block_depth / kElementsOfFactor<T>)*kFactorBytes;
  const int64_t scratch_bytes = kLanes<W> * (block_depth / kElementsOfFactor<T>)*kFactorBytes;
  const int64_t partial_bytes = blocks > 1 ? p.row_block * Strip<T>::kColumns * static_cast<int64_t>(sizeof(W)) : 0;
  char* memory = workspace.reserve(packed_bytes + scratch_bytes + partial_bytes);
  auto* packed = reinterpret_cast<Packed<T>*>(memory);
  auto* scratch = reinterpret_cast<Packed<T>*>(memory + packed_bytes);
  auto* partial = reinterpret_cast<W*>(memory + packed_bytes + scratch_bytes);

  const int64_t row_blocks = (p.rows + p.row_block - 1) / p.row_block;
  int64_t packed_strip = -1;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t strip_index = item / row_blocks;
    const Strip<T> strip(p, strip_index * Strip<T>::kColumns, block_depth, packed);
    const int64_t row_begin = item % row_blocks * p.row_block;
    const int64_t row_end = row_begin + p.row_block < p.rows ? row_begin + p.row_block : p.rows;
    DepthPosition position;
    for (int64_t block = 0; block < blocks; ++block) {
      const bool packs = blocks > 1 || packed_strip != strip_index;
      const DepthPieces<T> pieces = next_block(p, strip, position, block_depth, packs, scratch);
      for (int64_t row = row_begin; row < row_end; row += kRowChunk) {
        const int64_t rows = row_end - row < kRowChunk ? row_end - row : kRowChunk;
        for (int64_t i = 0; i < strip.count; ++i) {
          const TileTarget<T> target{
              p, partial + (row - row_begin) * Strip<T>::kColumns + i * Strip<T>::kPanel, Strip<T>::kColumns, block == 0,
              block + 1 == blocks};
          product_panel(pieces, strip.panel[i], target, row, rows);
        }
      }
    }
    packed_strip = strip_index;
  }
}

} // namespace rora::kernels::RORA_CPU_CAPABILITY
