#pragma once

#include "kernels.h"
#include "tile.h"

namespace rora::kernels::RORA_CPU_CAPABILITY {

// How attention's tensors are laid out for its products. A block is one tile's columns long.

/// How a product's two sides are stored: plain numbers on the right side in the wide type, or pairs of bfloat16,
/// neighbours along the sum, on both.
template <class T, bool Pairs>
struct OperandAs {
  static constexpr bool kPairs = false;
  using Wide = wide_t<T>;
  using Left = T; ///< of the tensors themselves
  using Right = Wide;
  using Score = Wide; ///< weights and their gradients on the left side
  static constexpr int64_t kGroup = 1;
};
template <>
struct OperandAs<BFloat16, true> {
  static constexpr bool kPairs = true;
  using Wide = float;
  using Left = BFloat16Pair;
  using Right = BFloat16Pair;
  using Score = BFloat16Pair;
  static constexpr int64_t kGroup = 2;
};
template <class T>
using Operand = OperandAs<T, kHasPairs && sizeof(T) == 2>;

template <class W>
constexpr int64_t kAttentionBlock = kTileColumns<W>;

constexpr int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

/// Rows of one head: `count` tokens, `stride` elements apart, at most a block.
template <class T>
struct HeadRows {
  T* data;
  int64_t stride;
  int64_t count;
  int64_t head_dim;

  T* row(int64_t i) const {
    return data + i * stride;
  }
};

template <class W>
void fill_zero(W* data, int64_t count) {
  __builtin_memset(data, 0, static_cast<size_t>(count) * sizeof(W));
}

RORA_INLINE Words rounded_words(Vector<float> v) {
  return __builtin_convertvector(round_to_bfloat16(v), Words);
}

/// One token's numbers in the wide type, zero behind `size`.
template <class T>
void widen_row(const T* x, wide_t<T>* y, int64_t size, int64_t padded) {
  using W = wide_t<T>;
  for_registers<W>(size, [&](int64_t j, int64_t count) { store(y + j, load(x + j, count)); });
  for (int64_t j = round_up(size, kLanes<W>); j < padded; ++j) {
    y[j] = 0;
  }
}

/// Rows as the right side of a product that sums over them: `y` `[block/group, dim]`, zero behind the last.
template <class T>
void pack_tokens(const HeadRows<T>& rows, int64_t dim, typename Operand<T>::Right* y) {
  using W = wide_t<T>;
  constexpr int64_t kBlock = kAttentionBlock<W>;
  if constexpr (Operand<T>::kPairs) {
    for (int64_t i = 0; i < kBlock; i += 2) {
      const T* even = i < rows.count ? rows.row(i) : nullptr;
      const T* odd = i + 1 < rows.count ? rows.row(i + 1) : nullptr;
      for_registers<W>(rows.head_dim, [&](int64_t j, int64_t size) {
        const Vector<W> low = even != nullptr ? load(even + j, size) : Vector<W>{};
        const Vector<W> high = odd != nullptr ? load(odd + j, size) : Vector<W>{};
        const Words words = (__builtin_bit_cast(Words, low) >> 16) | __builtin_bit_cast(Words, high);
        __builtin_memcpy(y + i / 2 * dim + j, &words, sizeof(words));
      });
    }
  } else {
    for (int64_t i = 0; i < kBlock; ++i) {
      if (i < rows.count) {
        widen_row(rows.row(i), y + i * dim, rows.head_dim, dim);
      } else {
        fill_zero(y + i * dim, dim);
      }
    }
  }
}

/// The same rows turned, as the right side of a product that sums over head_dim: `y` `[dim/group, block]`. `scratch`
/// holds a block of rows.
template <class T>
void pack_turned(const HeadRows<T>& rows, int64_t dim, wide_t<T>* scratch, typename Operand<T>::Right* y) {
  using W = wide_t<T>;
  constexpr int64_t kBlock = kAttentionBlock<W>;
  auto* out = reinterpret_cast<W*>(y);
  if constexpr (Operand<T>::kPairs) {
    const int64_t half = dim / 2;
    if (rows.count == kBlock && rows.head_dim == dim) {
      transpose(reinterpret_cast<const W*>(rows.data), rows.stride / 2, out, kBlock, kBlock, half);
      return;
    }
    for (int64_t i = 0; i < kBlock; ++i) {
      W* own = scratch + i * half;
      const int64_t size = i < rows.count ? rows.head_dim / 2 : 0;
      if (i < rows.count) {
        __builtin_memcpy(own, rows.row(i), static_cast<size_t>(size) * sizeof(W));
      }
      fill_zero(own + size, half - size);
    }
    transpose(scratch, half, out, kBlock, kBlock, half);
  } else {
    for (int64_t i = 0; i < kBlock; ++i) {
      if (i < rows.count) {
        widen_row(rows.row(i), scratch + i * dim, rows.head_dim, dim);
      } else {
        fill_zero(scratch + i * dim, dim);
      }
    }
    transpose(scratch, dim, out, kBlock, kBlock, dim);
  }
}

/// Registers [first, last) of `y` `[block/group, block]`, the right side of a product that sums over keys, from `x`
/// `[count, block]`.
template <class T>
void pack_keys(const wide_t<T>* x, int64_t count, int first, int last, typename Operand<T>::Right* y) {
  using W = wide_t<T>;
  constexpr int64_t kBlock = kAttentionBlock<W>;
  for (int64_t j = 0; j < count; j += Operand<T>::kGroup) {
    for (int n = first; n < last; ++n) {
      const W* even = x + j * kBlock + n * kLanes<W>;
      if constexpr (Operand<T>::kPairs) {
        const Words low = rounded_words(load(even));
        const Words high = j + 1 < count ? rounded_words(load(even + kBlock)) : Words{};
        const Words words = low | (high << 16);
        __builtin_memcpy(y + j / 2 * kBlock + n * kLanes<W>, &words, sizeof(words));
      } else {
        store(y + j * kBlock + n * kLanes<W>, load(even));
      }
    }
  }
}

/// Rows [begin, begin + count) of `x` `[…, block]` in the registers from `first` on, as the left side of a product that
/// sums over queries; the row `begin` of it. `y` is room for all of `x`.
template <class T>
const typename Operand<T>::Score* pack_left(const wide_t<T>* x, int64_t begin, int64_t count, int first, wide_t<T>* y) {
  using W = wide_t<T>;
  using Score = typename Operand<T>::Score;
  constexpr int64_t kBlock = kAttentionBlock<W>;
  if constexpr (Operand<T>::kPairs) {
    auto* narrow = reinterpret_cast<BFloat16*>(y);
    for (int64_t j = begin; j < begin + count; ++j) {
      for (int64_t i = j * kBlock + first * kLanes<W>; i < (j + 1) * kBlock; i += kLanes<W>) {
        store(narrow + i, load(x + i));
      }
    }
    return reinterpret_cast<const Score*>(y) + begin * kBlock / Operand<T>::kGroup;
  } else {
    return reinterpret_cast<const Score*>(x) + begin * kBlock;
  }
}

/// Sums `[dim, block]` into the rows, which are its columns; the sums are lost. `scratch` is room for as many.
template <class T>
void write_turned(wide_t<T>* sums, int64_t dim, wide_t<T>* scratch, const HeadRows<T>& rows) {
  using W = wide_t<T>;
  constexpr int64_t kBlock = kAttentionBlock<W>;
  if constexpr (Operand<T>::kPairs) { // rounded first: neighbours along dim are one word, and half of them to turn
    const int64_t half = round_up(dim / 2, kLanes<W>);
    for (int64_t d = 0; d < dim; d += 2) {
      for (int64_t i = 0; i < kBlock; i += kLanes<W>) {
        const Words words =
            rounded_words(load(sums + d * kBlock + i)) | (rounded_words(load(sums + (d + 1) * kBlock + i)) << 16);
        __builtin_memcpy(sums + d / 2 * kBlock + i, &words, sizeof(words));
      }
    }
    transpose(sums, kBlock, scratch, half, half, kBlock);
    for (int64_t i = 0; i < rows.count; ++i) {
      __builtin_memcpy(rows.row(i), scratch + i * half, static_cast<size_t>(rows.head_dim) * sizeof(T));
    }
  } else {
    transpose(sums, kBlock, scratch, dim, dim, kBlock);
    for (int64_t i = 0; i < rows.count; ++i) {
      for_registers<W>(
          rows.head_dim, [&](int64_t j, int64_t count) { store(rows.row(i) + j, load(scratch + i * dim + j), count); });
    }
  }
}

} // namespace rora::kernels::RORA_CPU_CAPABILITY
