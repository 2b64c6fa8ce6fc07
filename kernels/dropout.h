#pragma once

#include "parameters.h"
#include "rows.h"

#include <rora/ops/philox.h>

namespace rora::kernels::cuda {

/// y = x⊙mask, where the mask is 1 / (1 − p), rounded to T, for elements that are kept and 0 for others: element i is kept
/// where word i mod 4 of Philox(seed, i / 4) is at least p·2³². A block takes `kBlock` elements. Reads x once, writes y once;
/// y may be x.
template <class T>
struct Dropout {
  static constexpr int kThreads = 256;
  static constexpr int kWords = 4;
  static constexpr int64_t kBlock = DropoutParameters::kBlock;
  static_assert(kBlock % (kThreads * Packet<T>::kCount) == 0 && Packet<T>::kCount % kWords == 0);
  DropoutParameters p;
  int64_t items;
  uint32_t threshold;
  float scale;
  bool packets;

  Dropout(const DropoutParameters& p, int64_t items) : p(p), items(items) {
    // p = 1 would need 2³²: what is kept of it is multiplied by 0 just as well.
    const uint64_t limit = static_cast<uint64_t>(p.p * 4294967296.0);
    threshold = limit > 0xFFFFFFFFu ? 0xFFFFFFFFu : static_cast<uint32_t>(limit);
    scale = widen(rounded<T>(p.p < 1.0 ? static_cast<float>(1.0 / (1.0 - p.p)) : 0.0f));
    packets = fits_packets<T>(p.x, 0) && fits_packets<T>(p.y, 0);
  }

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
          of_x[j + word] *= factor(random.word[word]);
        }
      }
      store(of_x, y + i);
    }
    for (int64_t i = whole + thread_index() * kWords; i < end; i += kThreads * kWords) {
      const auto random = ops::Philox::generate(p.seed, static_cast<uint64_t>(i / kWords));
      RORA_UNROLL
      for (int word = 0; word < kWords; ++word) {
        if (i + word < end) {
          y[i + word] = rounded<T>(widen(x[i + word]) * factor(random.word[word]));
        }
      }
    }
  }

 private:
  RORA_DEVICE float factor(uint32_t word) const {
    return word >= threshold ? scale : 0.0f;
  }
};

} // namespace rora::kernels::cuda
