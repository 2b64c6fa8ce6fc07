#pragma once

#include "kernels.h"
#include "vector.h"

namespace rora::kernels::RORA_CPU_CAPABILITY {

/// Philox4x32-10 of as many counters as a register has words, as `ops::Philox` gives them one by one.
struct PhiloxWords {
  Words word[4];
};

RORA_INLINE void multiply_wide(Words a, uint32_t b, Words& low, Words& high) {
  typedef uint64_t Wide __attribute__((vector_size(2 * kVectorBytes)));
  const Wide product = __builtin_convertvector(a, Wide) * static_cast<uint64_t>(b);
  low = __builtin_convertvector(product, Words);
  high = __builtin_convertvector(product >> 32, Words);
}

/// Of the counters `first`, `first` + 1, …
RORA_INLINE PhiloxWords philox(uint64_t key, uint64_t first) {
  Words c0, c1, c2 = {}, c3 = {};
  for (int64_t lane = 0; lane < kFloatLanes; ++lane) {
    const uint64_t counter = first + static_cast<uint64_t>(lane);
    c0[lane] = static_cast<uint32_t>(counter);
    c1[lane] = static_cast<uint32_t>(counter >> 32);
  }
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    Words low0, high0, low1, high1;
    multiply_wide(c0, 0xD2511F53u, low0, high0);
    multiply_wide(c2, 0xCD9E8D57u, low1, high1);
    c0 = high1 ^ c1 ^ k0;
    c2 = high0 ^ c3 ^ k1;
    c1 = low1;
    c3 = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

template <class T>
void dropout(const DropoutParameters& p, int64_t begin, int64_t end) {
  using W = wide_t<T>;
  constexpr int64_t kGroup = 4 * kFloatLanes; ///< elements that one call of philox decides
  static_assert(DropoutParameters::kBlock % kGroup == 0);
  const uint64_t threshold = static_cast<uint64_t>(p.p * 4294967296.0);
  const W scale = p.p < 1.0 ? static_cast<W>(static_cast<float>(1.0 / (1.0 - p.p))) : W{0};
  const W kept_scale = static_cast<W>(widen(rounded<T>(scale)));
  const int64_t last = end * DropoutParameters::kBlock < p.count ? end * DropoutParameters::kBlock : p.count;
  for (int64_t i = begin * DropoutParameters::kBlock; i < last; i += kGroup) {
    const PhiloxWords random = philox(p.seed, static_cast<uint64_t>(i / 4));
    W mask[kGroup];
    for (int64_t lane = 0; lane < kFloatLanes; ++lane) {
      for (int64_t word = 0; word < 4; ++word) {
        mask[4 * lane + word] = random.word[word][lane] >= threshold ? kept_scale : W{0};
      }
    }
    const T* x = static_cast<const T*>(p.x) + i;
    T* y = static_cast<T*>(p.y) + i;
    for_registers<W>(last - i < kGroup ? last - i : kGroup, [&](int64_t j, int64_t count) {
      store(y + j, load(x + j, count) * load(static_cast<const W*>(mask) + j), count);
    });
  }
}

} // namespace rora::kernels::RORA_CPU_CAPABILITY
