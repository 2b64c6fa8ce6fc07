#pragma once

#include "tile.h"

#include <cstring>
#include <type_traits>

namespace rora::kernels::RORA_CPU_CAPABILITY {

/// Whether products of bfloat16 run on a matrix unit, x86's AMX: eight tiles of 16 rows of 16 words. Compiled with
/// RORA_EMULATED_TILES its instructions are loops, which any processor runs and the tests take.
#if defined(__AMX_BF16__) || defined(RORA_EMULATED_TILES)
constexpr bool kHasMatrixUnit = true;
#else
constexpr bool kHasMatrixUnit = false;
#endif

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

#if defined(__AMX_BF16__) || defined(RORA_EMULATED_TILES)
/// Sums of `RowTiles` by `ColumnTiles` tiles, 1 or 2 each: in tiles 0 to 3, with A's in 4 and 5 and B's in 6 and 7.
template <int RowTiles, int ColumnTiles>
struct UnitSums {
  static RORA_INLINE void clear() {
    RORA_UNIT_ZERO(0);
    RORA_UNIT_ZERO(1);
    RORA_UNIT_ZERO(2);
    RORA_UNIT_ZERO(3);
  }

  /// Adds A `[16·RowTiles, depth]`·B `[depth, 16·ColumnTiles]`; depth counts pairs and is a multiple of 16, A's rows
  /// lie `lda` and B's `ldb` pairs apart.
  static RORA_INLINE void add(const BFloat16Pair* a, int64_t lda, const BFloat16Pair* b, int64_t ldb, int64_t depth) {
    constexpr int64_t kPair = static_cast<int64_t>(sizeof(BFloat16Pair));
    __asm__ volatile("" ::: "memory"); // what is loaded has been stored: the compiler does not know what tiles read
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

  /// Writes them as rows of 16·ColumnTiles numbers.
  static RORA_INLINE void store(float* sums) {
    constexpr int64_t kStride = ColumnTiles * kUnitSide, kBytes = kStride * static_cast<int64_t>(sizeof(float));
    RORA_UNIT_STORE(0, sums, kBytes);
    if constexpr (ColumnTiles == 2) {
      RORA_UNIT_STORE(1, sums + kUnitSide, kBytes);
    }
    if constexpr (RowTiles == 2) {
      RORA_UNIT_STORE(2, sums + kUnitSide * kStride, kBytes);
      if constexpr (ColumnTiles == 2) {
        RORA_UNIT_STORE(3, sums + kUnitSide * kStride + kUnitSide, kBytes);
      }
    }
  }
};
#endif

} // namespace rora::kernels::RORA_CPU_CAPABILITY
