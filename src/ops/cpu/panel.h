#pragma once

#include "kernels.h"
#include "matrix_unit.h"
#include "tile.h"

#include <type_traits>

namespace rora::kernels::RORA_CPU_CAPABILITY {

static_assert(kHasPairs, "bfloat16 is multiplied in pairs here");

/// What elements of type T are multiplied as: bfloat16 in twos, neighbours along the depth.
template <class T>
using Factor = std::conditional_t<std::is_same_v<T, BFloat16>, BFloat16Pair, T>;
template <class T>
constexpr int64_t kElementsOfFactor = static_cast<int64_t>(sizeof(Factor<T>) / sizeof(T));

/// Columns of a panel of a result that has `columns`. For the matrix unit four registers, two tiles twice. Else three
/// registers, or four where there are few columns and four alone divide them into an even count of panels: few panels
/// that two threads cannot share by columns would cost most, as each packs all of them for its half of the rows.
template <class T>
int64_t panel_columns(int64_t columns) {
  constexpr int64_t kRegister = kLanes<wide_t<T>>, kFew = 32 * kRegister;
  if (kOnMatrixUnit<T>) {
    return 4 * kRegister;
  }
  const bool four = columns <= kFew && columns % (2 * 3 * kRegister) != 0 && columns % (2 * 4 * kRegister) == 0;
  return (four ? 4 : 3) * kRegister;
}

/// Columns [column, column + columns) of a matrix, packed as rows of registers: those of B under a tile, or A's rows
/// where they are columns of its transpose.
template <class T>
struct Panel {
  int64_t column, columns;
  Factor<T>* packed;

  int64_t n_registers() const {
    return (columns + kLanes<wide_t<T>> - 1) / kLanes<wide_t<T>>;
  }
  int64_t stride() const {
    return n_registers() * kLanes<wide_t<T>>;
  }
};

/// `count` elements as lower halves of words.
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

/// The twos of two rows, 2·kFloatLanes of them.
RORA_INLINE void interleave_rows(const BFloat16* first, const BFloat16* second, BFloat16Pair* out) {
  typedef uint16_t Elements __attribute__((vector_size(kVectorBytes)));
  using Sequence = std::make_integer_sequence<int, 2 * static_cast<int>(kFloatLanes)>;
  Elements a, b;
  __builtin_memcpy(&a, first, sizeof(a));
  __builtin_memcpy(&b, second, sizeof(b));
  const Elements low = interleave_low(a, b, Sequence()), high = interleave_high(a, b, Sequence());
  __builtin_memcpy(out, &low, sizeof(low));
  __builtin_memcpy(out + kFloatLanes, &high, sizeof(high));
}

/// Packs a panel of X `[depth, columns]`, whose columns are dense, into rows of its registers; columns it lacks are 0.
/// depth counts elements.
template <class T, class X>
void pack_rows(const X* x, int64_t ldx, int64_t depth, const Panel<T>& panel) {
  using W = wide_t<T>;
  Factor<T>* out = panel.packed;
  for (int64_t k = 0; k < depth; k += kElementsOfFactor<T>, out += panel.stride()) {
    const X* row = x + k * ldx;
    int64_t column = 0;
    if constexpr (std::is_same_v<X, BFloat16> && std::is_same_v<T, BFloat16>) {
      for (; column + 2 * kLanes<W> <= panel.columns; column += 2 * kLanes<W>) {
        interleave_rows(row + column, row + ldx + column, out + column);
      }
    }
    for (; column < panel.columns; column += kLanes<W>) {
      const int64_t left = panel.columns - column;
      const int64_t count = left < kLanes<W> ? left : kLanes<W>;
      if constexpr (std::is_same_v<T, BFloat16>) {
        const Words two = half_words(row + column, count) | (half_words(row + ldx + column, count) << 16);
        __builtin_memcpy(out + column, &two, sizeof(two));
      } else {
        store(out + column, load(row + column, count));
      }
    }
  }
}

/// The same of X given as its transpose `[columns, depth]`; `scratch` holds kLanes<W>·depth elements.
template <class T, class X>
void pack_columns(const X* x, int64_t ldx, int64_t depth, const Panel<T>& panel, Factor<T>* scratch) {
  using W = wide_t<T>;
  const int64_t factors = depth / kElementsOfFactor<T>;
  for (int64_t n = 0; n < panel.n_registers(); ++n) {
    const X* first = x + n * kLanes<W> * ldx;
    const int64_t left = panel.columns - n * kLanes<W>;
    const void* square = first;
    int64_t stride = ldx / kElementsOfFactor<T>;
    if (!std::is_same_v<X, T> || left < kLanes<W>) {
      T* to = reinterpret_cast<T*>(scratch);
      for (int64_t column = 0; column < kLanes<W>; ++column, to += depth) {
        if (column >= left) {
          __builtin_memset(to, 0, static_cast<size_t>(depth) * sizeof(T));
          continue;
        }
        const X* from = first + column * ldx;
        for_registers<W>(depth, [&](int64_t k, int64_t count) { store(to + k, load(from + k, count), count); });
      }
      square = scratch;
      stride = factors;
    }
    // Twos are moved as the floats whose bits they are.
    transpose(
        static_cast<const W*>(square), stride, reinterpret_cast<W*>(panel.packed) + n * kLanes<W>, panel.stride(),
        kLanes<W>, factors);
  }
}

/// The panel's columns one after another: its transpose `[stride, factors]`.
template <class T>
void to_rows(const Panel<T>& panel, int64_t factors, Factor<T>* rows) {
  // Twos are moved as the floats whose bits they are.
  using W = wide_t<T>;
  const W* from = reinterpret_cast<const W*>(panel.packed);
  W* to = reinterpret_cast<W*>(rows);
  const int64_t whole = factors - factors % kLanes<W>;
  for (int64_t column = 0; column < panel.stride(); column += kLanes<W>) {
    for (int64_t k = 0; k < whole; k += kLanes<W>) {
      transpose_square(from + k * panel.stride() + column, panel.stride(), to + column * factors + k, factors);
    }
    for (int64_t k = whole; k < factors; ++k) {
      for (int64_t i = column; i < column + kLanes<W>; ++i) {
        to[i * factors + k] = from[k * panel.stride() + i];
      }
    }
  }
}

/// Packs depth [k, k + depth) of a panel of `rows` `[depth, …]` or, where they run along the depth, `[…, depth]`.
template <class T, class X>
void pack_as(const Rows& rows, bool along_depth, int64_t k, int64_t depth, const Panel<T>& panel, Factor<T>* scratch) {
  const X* data = static_cast<const X*>(rows.data);
  if (along_depth) {
    pack_columns<T>(data + panel.column * rows.stride + k, rows.stride, depth, panel, scratch);
  } else {
    pack_rows<T>(data + k * rows.stride + panel.column, rows.stride, depth, panel);
  }
}

template <class T>
void pack(
    const ProductParameters::Matrix& matrix, bool along_depth, int64_t k, int64_t depth, const Panel<T>& panel,
    Factor<T>* scratch) {
  if constexpr (std::is_same_v<T, double>) {
    pack_as<T, double>(matrix.rows, along_depth, k, depth, panel, scratch);
  } else if (matrix.type == Type::kFloat) {
    pack_as<T, float>(matrix.rows, along_depth, k, depth, panel, scratch);
  } else {
    pack_as<T, BFloat16>(matrix.rows, along_depth, k, depth, panel, scratch);
  }
}

/// The panels of a right side.
template <class T>
void pack_panels(const PackParameters& p, int64_t begin, int64_t end) {
  static thread_local Workspace workspace;
  auto* scratch =
      reinterpret_cast<Factor<T>*>(workspace.reserve(kLanes<wide_t<T>> * p.depth * static_cast<int64_t>(sizeof(T))));
  const int64_t columns = panel_columns<T>(p.columns);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t column = item * columns;
    Factor<T>* packed = static_cast<Factor<T>*>(p.packed) + column * p.depth / kElementsOfFactor<T>;
    const Panel<T> panel{column, column + columns < p.columns ? columns : p.columns - column, packed};
    pack(p.matrix, p.matrix.transposed, 0, p.depth, panel, scratch);
  }
}

} // namespace rora::kernels::RORA_CPU_CAPABILITY
