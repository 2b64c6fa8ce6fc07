#pragma once

#include "vector.h"

#include <cstdlib>
#include <utility>

namespace rora::kernels::RORA_CPU_CAPABILITY {

#if defined(__AVX512F__)
constexpr int kTileRows = 6;
constexpr int kTileVectors = 4; // 24 sums, 4 columns and a broadcast in 32 registers
#else
constexpr int kTileRows = 6;
constexpr int kTileVectors = 2; // 12 sums, 2 columns and a broadcast in 16 registers
#endif

/// Columns of a tile.
template <class W>
constexpr int64_t kTileColumns = kTileVectors* kLanes<W>;

/// Two neighbours of a sum in one word: what the processor multiplies and adds in one instruction.
struct __attribute__((may_alias)) BFloat16Pair {
  uint32_t bits;
};

/// Whether products of bfloat16 run on pairs.
#if defined(__AVX512BF16__)
constexpr bool kHasPairs = true;
#else
constexpr bool kHasPairs = false;
#endif

/// acc += a·b, lane by lane.
template <class W, class A>
RORA_INLINE Vector<W> multiply_add(Vector<W> acc, A a, const W* b) {
  return acc + static_cast<W>(widen(a)) * load(b);
}
#if defined(__AVX512BF16__)
template <class W>
RORA_INLINE Vector<W> multiply_add(Vector<W> acc, BFloat16Pair a, const BFloat16Pair* b) {
  const __m512i words = _mm512_loadu_si512(b);
  return __builtin_bit_cast(
      Vector<W>,
      _mm512_dpbf16_ps(
          __builtin_bit_cast(__m512, acc), (__m512bh)words, (__m512bh)_mm512_set1_epi32(static_cast<int>(a.bits))));
}
#endif

/// C `[Rows, N registers]` = A `[Rows, depth]`·B `[depth, N registers]`, or C + that; A's rows `lda`, B's `ldb` and C's
/// `ldc` elements apart.
template <int Rows, int N, bool Accumulate, class W, class A, class B>
RORA_INLINE void tile_product(const A* a, int64_t lda, const B* b, int64_t ldb, W* c, int64_t ldc, int64_t depth) {
  Vector<W> sums[Rows][N] = {};
  for (int r = 0; Accumulate && r < Rows; ++r) {
    for (int n = 0; n < N; ++n) {
      sums[r][n] = load(c + r * ldc + n * kLanes<W>);
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    for (int r = 0; r < Rows; ++r) {
      for (int n = 0; n < N; ++n) {
        sums[r][n] = multiply_add<W>(sums[r][n], a[r * lda + k], b + k * ldb + n * kLanes<W>);
      }
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (int n = 0; n < N; ++n) {
      store(c + r * ldc + n * kLanes<W>, sums[r][n]);
    }
  }
}

template <int N, bool Accumulate, int Rows, class W, class A, class B>
void rows_product(const A* a, int64_t lda, const B* b, int64_t ldb, W* c, int64_t ldc, int64_t rows, int64_t depth) {
  int64_t r = 0;
  for (; r + Rows <= rows; r += Rows) {
    tile_product<Rows, N, Accumulate, W>(a + r * lda, lda, b, ldb, c + r * ldc, ldc, depth);
  }
  if constexpr (Rows > 1) {
    constexpr int kFewer = Rows > 16 ? 16 : Rows > 8 ? 8 : Rows > 4 ? 4 : Rows / 2;
    if (r < rows) {
      rows_product<N, Accumulate, kFewer, W>(a + r * lda, lda, b, ldb, c + r * ldc, ldc, rows - r, depth);
    }
  }
}

/// C `[rows, columns]` = A `[rows, depth]`·B `[depth, columns]`, or C + that; columns a multiple of kLanes<W>. Where A
/// and B are pairs, depth counts pairs.
template <bool Accumulate, class W, class A, class B>
RORA_INLINE void small_product(
    const A* a, int64_t lda, const B* b, int64_t ldb, W* c, int64_t ldc, int64_t rows, int64_t columns, int64_t depth) {
  constexpr int kSums = kTileRows * kTileVectors;
  int64_t j = 0;
  for (; j + kTileColumns<W> <= columns; j += kTileColumns<W>) {
    rows_product<kTileVectors, Accumulate, kTileRows, W>(a, lda, b + j, ldb, c + j, ldc, rows, depth);
  }
  switch ((columns - j) / kLanes<W>) {
    case 3:
      return rows_product<3, Accumulate, kSums / 3, W>(a, lda, b + j, ldb, c + j, ldc, rows, depth);
    case 2:
      return rows_product<2, Accumulate, kSums / 2, W>(a, lda, b + j, ldb, c + j, ldc, rows, depth);
    case 1:
      return rows_product<1, Accumulate, kSums, W>(a, lda, b + j, ldb, c + j, ldc, rows, depth);
    default:
      return;
  }
}

template <class V, int... I>
RORA_INLINE V interleave_low(V a, V b, std::integer_sequence<int, I...>) {
  constexpr int n = sizeof...(I);
  return __builtin_shufflevector(a, b, (I / 2 + (I % 2) * n)...);
}
template <class V, int... I>
RORA_INLINE V interleave_high(V a, V b, std::integer_sequence<int, I...>) {
  constexpr int n = sizeof...(I);
  return __builtin_shufflevector(a, b, (n / 2 + I / 2 + (I % 2) * n)...);
}

/// Registers that hold a row each then hold its columns one after another, kLanes<W>/Rows of them in each register.
template <int Rows, class W>
RORA_INLINE void rows_to_columns(Vector<W> (&a)[Rows]) {
  static_assert((Rows & (Rows - 1)) == 0 && Rows <= kLanes<W>);
  using Sequence = std::make_integer_sequence<int, static_cast<int>(kLanes<W>)>;
  Vector<W> b[Rows];
  // Each round interleaves the upper half of the rows with the lower.
  for (int round = 1; round < Rows; round *= 2) {
    for (int r = 0; r < Rows / 2; ++r) {
      b[2 * r] = interleave_low(a[r], a[r + Rows / 2], Sequence());
      b[2 * r + 1] = interleave_high(a[r], a[r + Rows / 2], Sequence());
    }
    for (int r = 0; r < Rows; ++r) {
      a[r] = b[r];
    }
  }
}

/// y[j][i] = x[i][j] of one square of registers.
template <class W>
RORA_INLINE void transpose_square(const W* x, int64_t ldx, W* y, int64_t ldy) {
  constexpr int kSide = static_cast<int>(kLanes<W>);
  Vector<W> a[kSide];
  for (int r = 0; r < kSide; ++r) {
    a[r] = load(x + r * ldx);
  }
  rows_to_columns<kSide, W>(a);
  for (int r = 0; r < kSide; ++r) {
    store(y + r * ldy, a[r]);
  }
}

/// y[j][i] = x[i][j] of `rows`×`columns` numbers, rows a multiple of the register.
template <class W>
void transpose(const W* x, int64_t ldx, W* y, int64_t ldy, int64_t rows, int64_t columns) {
  constexpr int64_t kSide = kLanes<W>;
  const int64_t whole = columns - columns % kSide;
  for (int64_t i = 0; i < rows; i += kSide) {
    for (int64_t j = 0; j < whole; j += kSide) {
      transpose_square(x + i * ldx + j, ldx, y + j * ldy + i, ldy);
    }
    for (int64_t j = whole; j < columns; ++j) {
      Vector<W> column;
      for (int64_t r = 0; r < kSide; ++r) {
        column[r] = x[(i + r) * ldx + j];
      }
      store(y + j * ldy + i, column);
    }
  }
}

/// A thread's own memory, kept between calls: it grows and is never given back before the thread ends.
class Workspace {
 public:
  ~Workspace() {
    std::free(data_);
  }
  /// `bytes` of memory on a 64-byte boundary; what was there before is lost.
  char* reserve(int64_t bytes) {
    if (bytes > size_) {
      std::free(data_);
      size_ = (bytes + 63) / 64 * 64;
      data_ = static_cast<char*>(std::aligned_alloc(64, static_cast<size_t>(size_)));
    }
    return data_;
  }

 private:
  char* data_ = nullptr;
  int64_t size_ = 0;
};

} // namespace rora::kernels::RORA_CPU_CAPABILITY
