#pragma once

#include "tile.h"

#include <cstddef>
#include <cstring>
#include <type_traits>

namespace rora::kernels::RORA_CPU_CAPABILITY {

/// Whether products of bfloat16 run on a matrix unit, x86's AMX: eight tiles of 16 rows of 16 words. Compiled with
/// RORA_EMULATED_TILES its instructions are loops, which any processor runs and the tests take.
#if defined(__AMX_BF16__) || defined(RORA_EMULATED_TILES)
#define RORA_HAS_MATRIX_UNIT 1
#else
#define RORA_HAS_MATRIX_UNIT 0
#endif
constexpr bool kHasMatrixUnit = RORA_HAS_MATRIX_UNIT != 0;

/// Whether products of T run on it.
template <class T>
constexpr bool kOnMatrixUnit = kHasMatrixUnit&& std::is_same_v<T, BFloat16>;

/// Rows, and words of a row, of a tile of the matrix unit.
constexpr int kUnitSide = 16;

#if defined(__AMX_BF16__)
#define RORA_UNIT_ZERO(tile) _tile_zero(tile)
#define RORA_UNIT_LOAD(tile, from, stride) _tile_loadd(tile, from, stride)
#define RORA_UNIT_STORE(tile, to, stride) _tile_stored(tile, to, stride)
#define RORA_UNIT_MULTIPLY(sum, a, b) _tile_dpbf16ps(sum, a, b)

/// What the processor is told of the tiles: eight, all whole.
struct alignas(64) UnitConfiguration {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(UnitConfiguration) == 64);
inline constexpr UnitConfiguration kUnitConfiguration{};

/// The tiles of this thread while it lives. A thread that keeps them is slower to switch to.
class UnitTiles {
 public:
  UnitTiles() {
    _tile_loadconfig(&kUnitConfiguration);
  }
  ~UnitTiles() {
    _tile_release();
  }
  UnitTiles(const UnitTiles&) = delete;
  UnitTiles& operator=(const UnitTiles&) = delete;
};
#elif defined(RORA_EMULATED_TILES)
#define RORA_UNIT_ZERO(tile) unit_tiles().zero(tile)
#define RORA_UNIT_LOAD(tile, from, stride) unit_tiles().load(tile, from, stride)
#define RORA_UNIT_STORE(tile, to, stride) unit_tiles().store(tile, to, stride)
#define RORA_UNIT_MULTIPLY(sum, a, b) unit_tiles().multiply(sum, a, b)

class EmulatedTiles {
 public:
  void zero(int tile) {
    std::memset(words_[tile], 0, sizeof(words_[tile]));
  }
  void load(int tile, const void* from, int64_t stride) {
    for (int row = 0; row < kUnitSide; ++row) {
      std::memcpy(words_[tile][row], static_cast<const char*>(from) + row * stride, sizeof(words_[tile][row]));
    }
  }
  void store(int tile, void* to, int64_t stride) const {
    for (int row = 0; row < kUnitSide; ++row) {
      std::memcpy(static_cast<char*>(to) + row * stride, words_[tile][row], sizeof(words_[tile][row]));
    }
  }
  void multiply(int sum, int a, int b) {
    for (int row = 0; row < kUnitSide; ++row) {
      for (int k = 0; k < kUnitSide; ++k) {
        for (int column = 0; column < kUnitSide; ++column) {
          float value = number(words_[sum][row][column]);
          value += number(words_[a][row][k] << 16) * number(words_[b][k][column] << 16);
          value += number(words_[a][row][k] & kUpper) * number(words_[b][k][column] & kUpper);
          words_[sum][row][column] = __builtin_bit_cast(uint32_t, value);
        }
      }
    }
  }

 private:
  static constexpr uint32_t kUpper = 0xFFFF0000u;
  static float number(uint32_t bits) {
    return __builtin_bit_cast(float, bits);
  }

  uint32_t words_[8][kUnitSide][kUnitSide] = {};
};

inline EmulatedTiles& unit_tiles() {
  static thread_local EmulatedTiles tiles;
  return tiles;
}

class UnitTiles {
 public:
  UnitTiles() {}
  ~UnitTiles() {}
};
#endif

#if RORA_HAS_MATRIX_UNIT
/// The tiles of this thread while products of T run on them; nothing for another T.
template <class T>
using TilesOf = std::conditional_t<kOnMatrixUnit<T>, UnitTiles, std::nullptr_t>;

/// Sums of `RowTiles` by `ColumnTiles` tiles, 1 or 2 each: in tiles 0 to 3, with A's in 4 and 5 and B's in 6 and 7.
template <int RowTiles, int ColumnTiles>
struct UnitSums {
  static RORA_INLINE void clear() {
    RORA_UNIT_ZERO(0);
    RORA_UNIT_ZERO(1);
    RORA_UNIT_ZERO(2);
    RORA_UNIT_ZERO(3);
  }

  /// Takes sums up that lie as `store` puts them.
  static RORA_INLINE void load(const float* sums, int64_t stride) {
    const int64_t bytes = stride * static_cast<int64_t>(sizeof(float));
    stores_have_ended();
    RORA_UNIT_LOAD(0, sums, bytes);
    if constexpr (ColumnTiles == 2) {
      RORA_UNIT_LOAD(1, sums + kUnitSide, bytes);
    }
    if constexpr (RowTiles == 2) {
      RORA_UNIT_LOAD(2, sums + kUnitSide * stride, bytes);
      if constexpr (ColumnTiles == 2) {
        RORA_UNIT_LOAD(3, sums + kUnitSide * stride + kUnitSide, bytes);
      }
    }
  }

  /// Adds A `[16·RowTiles, depth]`·B `[depth, 16·ColumnTiles]`; depth counts pairs and is a multiple of 16, A's rows
  /// lie `lda` and B's `ldb` pairs apart.
  static RORA_INLINE void add(const BFloat16Pair* a, int64_t lda, const BFloat16Pair* b, int64_t ldb, int64_t depth) {
    constexpr int64_t kPair = static_cast<int64_t>(sizeof(BFloat16Pair));
    stores_have_ended();
    for (int64_t k = 0; k < depth; k += kUnitSide) {
      RORA_UNIT_LOAD(6, b + k * ldb, ldb * kPair);
      RORA_UNIT_LOAD(4, a + k, lda * kPair);
      RORA_UNIT_MULTIPLY(0, 4, 6);
      if constexpr (ColumnTiles == 2) {
        RORA_UNIT_LOAD(7, b + k * ldb + kUnitSide, ldb * kPair);
        RORA_UNIT_MULTIPLY(1, 4, 7);
      }
      if constexpr (RowTiles == 2) {
        RORA_UNIT_LOAD(5, a + kUnitSide * lda + k, lda * kPair);
        RORA_UNIT_MULTIPLY(2, 5, 6);
        if constexpr (ColumnTiles == 2) {
          RORA_UNIT_MULTIPLY(3, 5, 7);
        }
      }
    }
  }

  /// Writes them as rows of 16·ColumnTiles numbers, `stride` apart.
  static RORA_INLINE void store(float* sums, int64_t stride) {
    const int64_t bytes = stride * static_cast<int64_t>(sizeof(float));
    RORA_UNIT_STORE(0, sums, bytes);
    if constexpr (ColumnTiles == 2) {
      RORA_UNIT_STORE(1, sums + kUnitSide, bytes);
    }
    if constexpr (RowTiles == 2) {
      RORA_UNIT_STORE(2, sums + kUnitSide * stride, bytes);
      if constexpr (ColumnTiles == 2) {
        RORA_UNIT_STORE(3, sums + kUnitSide * stride + kUnitSide, bytes);
      }
    }
  }

 private:
  /// What tiles load has been stored: the compiler does not know what they read.
  static RORA_INLINE void stores_have_ended() {
    __asm__ volatile("" ::: "memory");
  }
};

/// C `[16·RowTiles, 16·ColumnTiles]` of `small_product`, by the unit as far as the depth fills tiles.
template <bool Accumulate, int RowTiles, int ColumnTiles>
void small_product_on_unit(
    const BFloat16Pair* a, int64_t lda, const BFloat16Pair* b, int64_t ldb, float* c, int64_t ldc, int64_t depth) {
  using Sums = UnitSums<RowTiles, ColumnTiles>;
  const int64_t whole = depth - depth % kUnitSide;
  if constexpr (Accumulate) {
    Sums::load(c, ldc);
  } else {
    Sums::clear();
  }
  Sums::add(a, lda, b, ldb, whole);
  Sums::store(c, ldc);
  if (whole < depth) {
    small_product<true, float, BFloat16Pair, BFloat16Pair>(
        a + whole, lda, b + whole * ldb, ldb, c, ldc, RowTiles * kUnitSide, ColumnTiles * kUnitSide, depth - whole);
  }
}

/// The same of all columns, a multiple of 16.
template <bool Accumulate, int RowTiles>
void small_rows_on_unit(
    const BFloat16Pair* a, int64_t lda, const BFloat16Pair* b, int64_t ldb, float* c, int64_t ldc, int64_t columns,
    int64_t depth) {
  int64_t j = 0;
  for (; j + 2 * kUnitSide <= columns; j += 2 * kUnitSide) {
    small_product_on_unit<Accumulate, RowTiles, 2>(a, lda, b + j, ldb, c + j, ldc, depth);
  }
  if (j < columns) {
    small_product_on_unit<Accumulate, RowTiles, 1>(a, lda, b + j, ldb, c + j, ldc, depth);
  }
}

/// `small_product` of pairs, whose rows run on the unit as far as they fill tiles; the caller has `TilesOf<BFloat16>`.
template <bool Accumulate>
void small_product(
    const BFloat16Pair* a, int64_t lda, const BFloat16Pair* b, int64_t ldb, float* c, int64_t ldc, int64_t rows,
    int64_t columns, int64_t depth) {
  int64_t row = 0;
  for (; row + 2 * kUnitSide <= rows; row += 2 * kUnitSide) {
    small_rows_on_unit<Accumulate, 2>(a + row * lda, lda, b, ldb, c + row * ldc, ldc, columns, depth);
  }
  if (row + kUnitSide <= rows) {
    small_rows_on_unit<Accumulate, 1>(a + row * lda, lda, b, ldb, c + row * ldc, ldc, columns, depth);
    row += kUnitSide;
  }
  if (row < rows) {
    small_product<Accumulate, float, BFloat16Pair, BFloat16Pair>(
        a + row * lda, lda, b, ldb, c + row * ldc, ldc, rows - row, columns, depth);
  }
}
#else
template <class T>
using TilesOf = std::nullptr_t;
#endif

} // namespace rora::kernels::RORA_CPU_CAPABILITY
