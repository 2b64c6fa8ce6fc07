#pragma once

// A deep and a thin product in one accumulator: what does not depend on CUDA. The depth goes on from the one pair into
// the other, in steps of `kKTile`; where a pair's depth ends within a step, the rest of the step is zeros.

#include "parameters.h"

#include <cstdint>

namespace rora::kernels::cuda {

/// The depth of a step.
constexpr int kKTile = 64;

/// Steps `begin` to `begin + count` of a pair.
struct KTileSpan {
  int begin = 0, count = 0;
};

/// How many steps the depths of the two pairs take. The deep pair's come first.
struct KTiles {
  int deep = 0, thin = 0;

  static constexpr KTiles of(int64_t depth, int64_t rank) {
    return {static_cast<int>((depth + kKTile - 1) / kKTile), static_cast<int>((rank + kKTile - 1) / kKTile)};
  }
  constexpr int count() const {
    return deep + thin;
  }
  /// Of `count` steps from `begin` on, those that are the deep pair's and those that are the thin pair's.
  constexpr KTileSpan deep_part(int begin, int count) const {
    const int from = begin < deep ? begin : deep, to = begin + count < deep ? begin + count : deep;
    return {from, to - from};
  }
  constexpr KTileSpan thin_part(int begin, int count) const {
    const KTileSpan before = deep_part(begin, count);
    return {begin + before.count - deep > 0 ? begin + before.count - deep : 0, count - before.count};
  }
};

/// Rows and columns of the result that a block of threads forms at a time. At 128 x 128, two groups of warps take
/// turns, one multiplying while the other writes; at 128 x 256 they share each tile.
enum class KAppendTile { k128x128, k128x256 };

constexpr int tile_rows(KAppendTile) {
  return 128;
}
constexpr int tile_columns(KAppendTile tile) {
  return tile == KAppendTile::k128x128 ? 128 : 256;
}

/// Two blocks, one's tile above the other's, share what they read of W and B.
constexpr int kBlocksOfCluster = 2;

/// y = alpha·(x·W + s·B) + beta·c, all of bfloat16, summed up in fp32 and rounded once.
struct KAppendParameters {
  int64_t rows = 0, columns = 0;
  int64_t depth = 0; ///< of x·W
  int64_t rank = 0; ///< of s·B
  Rows x; ///< `[rows, depth]`, read
  Rows w; ///< `[depth, columns]`, read; `[columns, depth]` where `transposed`
  Rows s; ///< `[rows, rank]`, read
  Rows b; ///< `[rank, columns]`, read; `[columns, rank]` where `transposed`
  Rows c; ///< `[rows, columns]`, read where beta is not 0; may be y
  Rows y; ///< `[rows, columns]`, written
  bool transposed = false;
  float alpha = 1.0f, beta = 0.0f;
  KAppendTile tile = KAppendTile::k128x128;
};

/// The hardware copies tiles of rows that begin at multiples of this.
constexpr int64_t kTileCopyBytes = 16;
/// That, in elements.
constexpr int64_t kTileCopyElements = kTileCopyBytes / 2;

/// The stride, in elements, of rows of `size` that a tile can be copied from.
constexpr int64_t padded_to_tile_copy(int64_t size) {
  return (size + kTileCopyElements - 1) / kTileCopyElements * kTileCopyElements;
}

/// Whether tiles can be copied from, or to, rows of `size` elements.
inline bool suits_tile_copy(const Rows& rows, int64_t size) {
  constexpr int64_t kMostBytes = int64_t{1} << 40; // between rows
  return rows.data != nullptr && reinterpret_cast<uintptr_t>(rows.data) % kTileCopyBytes == 0 && rows.stride >= size &&
      rows.stride % kTileCopyElements == 0 && rows.stride * 2 < kMostBytes;
}

/// Whether x, W, y and, where it is read, c are such as the kernel takes.
inline bool suits_deep_pair(const KAppendParameters& p) {
  constexpr int64_t kMost = int64_t{1} << 30; // of any size: coordinates and counts of tiles are int
  const auto counts = [](int64_t size) { return size > 0 && size <= kMost; };
  return counts(p.rows) && counts(p.columns) && counts(p.depth) && counts(p.rank) &&
      p.columns % kTileCopyElements == 0 && suits_tile_copy(p.x, p.depth) &&
      suits_tile_copy(p.w, p.transposed ? p.depth : p.columns) && suits_tile_copy(p.y, p.columns) &&
      (p.beta == 0.0f || suits_tile_copy(p.c, p.columns));
}

/// The same of all matrices. `fits` asks for the device, too.
inline bool suits_kappend(const KAppendParameters& p) {
  return suits_deep_pair(p) && suits_tile_copy(p.s, p.rank) && suits_tile_copy(p.b, p.transposed ? p.rank : p.columns);
}

/// How many clusters wide the bands are in which tiles are taken. The tiles that run at once are then near a square,
/// and fewer rows and columns of the inputs are read for them. Both counts of tiles are rounded up to whole bands,
/// which are as wide as adds but few tiles.
constexpr int band_width(int64_t rows, int64_t columns, KAppendTile tile) {
  constexpr int kWidest = 8;
  constexpr int64_t kOneMoreOf = 32;
  const auto whole = [](int64_t count, int64_t part) { return (count + part - 1) / part * part; };
  const int64_t down = whole(rows, tile_rows(tile) * kBlocksOfCluster) / tile_rows(tile);
  const int64_t across = whole(columns, tile_columns(tile)) / tile_columns(tile);
  const int64_t most = down * across * (kOneMoreOf + 1) / kOneMoreOf;
  int width = kWidest;
  while (width > 1 && whole(down, width * kBlocksOfCluster) * whole(across, width) > most) {
    width /= 2;
  }
  return width;
}

} // namespace rora::kernels::cuda
