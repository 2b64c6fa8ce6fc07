#pragma once

#include "device.h"

namespace rora::kernels::cuda {

/// How many numbers f of `for_row` is given.
template <int N>
struct Count {
  static constexpr int kCount = N;
};

/// Calls f(Count, first) for the stretches of a row of `size` numbers that fall to this thread of `Threads`: packets of
/// T where `packets`, else one number at a time.
template <class T, int Threads, class F>
RORA_DEVICE void for_row(int64_t size, bool packets, F f) {
  constexpr int kCount = Packet<T>::kCount;
  if (packets) {
    for (int64_t i = int64_t{thread_index()} * kCount; i < size; i += int64_t{Threads} * kCount) {
      f(Count<kCount>{}, i);
    }
  } else {
    for (int64_t i = thread_index(); i < size; i += Threads) {
      f(Count<1>{}, i);
    }
  }
}

/// Calls f(Count, row, i) for what falls to this thread of a grid of `blocks_of_rows` blocks: one packet of T, or one
/// number where not `packets`, at i of one of the `rows` of `size` numbers.
template <class T, int Threads, class F>
RORA_DEVICE void for_place_in_rows(int64_t rows, int64_t size, bool packets, F f) {
  constexpr int kCount = Packet<T>::kCount;
  const int64_t place = block_x() * Threads + thread_index();
  const int64_t places_of_row = packets ? size / kCount : size;
  const int64_t row = place / places_of_row;
  if (row >= rows) {
    return;
  }
  const int64_t i = place - row * places_of_row;
  if (packets) {
    f(Count<kCount>{}, row, i * kCount);
  } else {
    f(Count<1>{}, row, i);
  }
}
template <class T, int Threads>
inline int64_t blocks_of_rows(int64_t rows, int64_t size, bool packets) {
  return divide_up(rows * (packets ? size / Packet<T>::kCount : size), Threads);
}

/// N numbers as they are stored, a packet or a single one: for what is fetched well before it is needed.
template <class T, int N>
struct Stretch {
  T value[N];
};
template <int N, class T>
RORA_DEVICE Stretch<T, N> fetch(const T* from) {
  if constexpr (N == 1) {
    return {{*from}};
  } else {
    return load_16_bytes<Stretch<T, N>>(from);
  }
}

/// N numbers from `from` on, a packet or a single one.
template <int N, class T>
RORA_DEVICE void load(const T* from, float (&to)[N]) {
  if constexpr (N == 1) {
    to[0] = widen(*from);
  } else {
    const auto packet = load_16_bytes<Packet<T>>(from);
    RORA_UNROLL
    for (int i = 0; i < N; ++i) {
      to[i] = widen(packet.value[i]);
    }
  }
}
template <int N, class T>
RORA_DEVICE void store(const float (&from)[N], T* to) {
  if constexpr (N == 1) {
    *to = rounded<T>(from[0]);
  } else {
    uint32_t words[4];
    RORA_UNROLL
    for (int i = 0; i < 4; ++i) {
      if constexpr (sizeof(T) == sizeof(BFloat16)) {
        words[i] = rounded_pair(from[2 * i], from[2 * i + 1]);
      } else {
        words[i] = float_to_bits(from[i]);
      }
    }
    store_16_bytes(words, to);
  }
}

/// Whether a row of `size` numbers is whole packets in each of these.
template <class T, class... Each>
inline bool whole_packets(int64_t size, const Each&... rows) {
  return size % Packet<T>::kCount == 0 && (fits_packets<T>(rows.data, rows.stride) && ...);
}

} // namespace rora::kernels::cuda
