#pragma once

#include "parameters.h"
#include "rows.h"

#include <rora/core/philox.h>

namespace rora::kernels::cuda {

/// What `ops::Dropout` multiplies element i of a flattened matrix by.
template <class T>
struct DropoutFactors {
  static constexpr int kWords = 4;
  uint64_t seed;
  uint32_t threshold;
  float scale;
  bool active;

  DropoutFactors(double p, uint64_t seed) : seed(seed), active(p > 0.0) {
    // p = 1 would need 2³²: what is kept of it is multiplied by 0 just as well.
    const uint64_t limit = static_cast<uint64_t>(p * 4294967296.0);
    threshold = limit > 0xFFFFFFFFu ? 0xFFFFFFFFu : static_cast<uint32_t>(limit);
    scale = widen(rounded<T>(p < 1.0 ? static_cast<float>(1.0 / (1.0 - p)) : 0.0f));
  }

  /// Of the element that this random word decides.
  RORA_DEVICE float of_word(uint32_t word) const {
    return word >= threshold ? scale : 0.0f;
  }

  /// Of elements [first, first + Count), Count a multiple of 4.
  template <int Count>
  RORA_DEVICE void of(int64_t first, float (&factors)[Count]) const {
    const uint64_t counter = static_cast<uint64_t>(first) / kWords;
    const int beyond = static_cast<int>(first % kWords); // by so much the first is not a counter's own
    float all[Count + kWords] = {};
    RORA_UNROLL
    for (int i = 0; i < Count + kWords; i += kWords) {
      if (i < Count || beyond > 0) {
        const auto random = ops::Philox::generate(seed, counter + static_cast<uint64_t>(i / kWords));
        RORA_UNROLL
        for (int word = 0; word < kWords; ++word) {
          all[i + word] = of_word(random.word[word]);
        }
      }
    }
    RORA_UNROLL
    for (int i = 0; i < Count; ++i) {
      factors[i] = beyond == 0 ? all[i] : beyond == 1 ? all[i + 1] : beyond == 2 ? all[i + 2] : all[i + 3];
    }
  }
};

/// y = x⊙mask, where the mask is 1 / (1 − p), rounded to T, for elements that are kept and 0 for others: element i is
/// kept where word i mod 4 of Philox(seed, i / 4) is at least p·2³². A block takes `kBlock` elements. Reads x once,
/// writes y once; y may be x.
template <class T>
struct Dropout {
  static constexpr int kThreads = 256;
  static constexpr int kWords = 4;
  static constexpr int64_t kBlock = DropoutParameters::kBlock;
  static_assert(kBlock % (kThreads * Packet<T>::kCount) == 0 && Packet<T>::kCount % kWords == 0);
  DropoutParameters p;
  int64_t items;
  DropoutFactors<T> factors;
  bool packets;

  Dropout(const DropoutParameters& p, int64_t items)
      : p(p), items(items), factors(p.p, p.seed), packets(fits_packets<T>(p.x, 0) && fits_packets<T>(p.y, 0)) {}

  Geometry geometry() const {
    return {items};
  }

  RORA_DEVICE void operator()() const {
    constexpr int kCount = Packet<T>::kCount;
    const T* x = static_cast<const T*>(p.x);
    T* y = static_cast<T*>(p.y);
    const int64_t begin = block_x() * kBlock;
    const int64_t end = begin + kBlock < p.count ? begin + kBlock : p.count;
    const int64_t whole = packets ? begin + (end - begin) / kCount * kCount : begin;
    for (int64_t i = begin + thread_index() * kCount; i < whole; i += kThreads * kCount) {
      float of_x[kCount];
      load(x + i, of_x);
      RORA_UNROLL
      for (int j = 0; j < kCount; j += kWords) {
        const auto random = ops::Philox::generate(p.seed, static_cast<uint64_t>((i + j) / kWords));
        RORA_UNROLL
        for (int word = 0; word < kWords; ++word) {
          of_x[j + word] *= factors.of_word(random.word[word]);
        }
      }
      store(of_x, y + i);
    }
    for (int64_t i = whole + thread_index() * kWords; i < end; i += kThreads * kWords) {
      const auto random = ops::Philox::generate(p.seed, static_cast<uint64_t>(i / kWords));
      RORA_UNROLL
      for (int word = 0; word < kWords; ++word) {
        if (i + word < end) {
          y[i + word] = rounded<T>(widen(x[i + word]) * factors.of_word(random.word[word]));
        }
      }
    }
  }
};

} // namespace rora::kernels::cuda
