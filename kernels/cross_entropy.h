#pragma once

#include "block_sum.h"
#include "parameters.h"
#include "rows.h"

namespace rora::kernels::cuda {

/// loss = log Σ e^logit − logit[target] of each row, a block a row; where `gradient`, the row becomes softmax − onehot
/// in place. The greatest logit and the sum are found in one pass: whenever a thread meets a greater one, it scales its
/// sum down. Reads the row once, and with the gradient once more and writes it; writes losses. A row that is ignored is
/// not read: its loss is 0, and so is its gradient. Any other target outside the vocabulary, which callers refuse,
/// reads nothing and gives NaN as the loss and softmax as the gradient.
template <class T>
struct CrossEntropy {
  static constexpr int kThreads = 512;
  static constexpr int kWarps = kThreads / kWarp;
  static constexpr int kAtOnce = 4; ///< packets that a thread fetches before it looks at the first
  CrossEntropyParameters p;
  int64_t rows;
  bool packets;

  CrossEntropy(const CrossEntropyParameters& p, int64_t rows)
      : p(p), rows(rows), packets(fits_packets<T>(p.logits.data, p.logits.stride)) {}

  Geometry geometry() const {
    return {rows, 1, 2 * kWarps * static_cast<int64_t>(sizeof(float))};
  }

  RORA_DEVICE void operator()() const {
    T* logits = static_cast<T*>(p.logits.data) + block_x() * p.logits.stride;
    const int64_t target = p.targets[block_x()];
    if (target == CrossEntropyParameters::kIgnored) {
      ignore(logits);
      return;
    }
    const bool known = target >= 0 && target < p.vocab;
    const float of_target = known ? widen(logits[target]) : bits_to_float(kNaN);

    float most = bits_to_float(kMinusInfinity), sum = 0.0f;
    for_logits(logits, [&](auto stretch, int64_t) {
      constexpr int kCount = sizeof(stretch.value) / sizeof(T);
      float greatest = most;
      RORA_UNROLL
      for (int j = 0; j < kCount; ++j) {
        greatest = larger(widen(stretch.value[j]), greatest);
      }
      sum *= scale_between(most, greatest);
      const float shift = finite(greatest);
      RORA_UNROLL
      for (int j = 0; j < kCount; ++j) {
        sum += exponential(widen(stretch.value[j]) - shift);
      }
      most = greatest;
    });
    float* memory = reinterpret_cast<float*>(shared_memory());
    const float greatest = block_max<kThreads>(most, memory);
    sum = block_sum<kThreads>(sum * scale_between(most, greatest), memory + kWarps);
    if (thread_index() == 0) {
      static_cast<float*>(p.losses)[block_x()] = logarithm(sum) + (greatest - of_target);
    }
    if (!p.gradient) {
      return;
    }
    const float scale = 1.0f / sum;
    for_logits(logits, [&](auto stretch, int64_t i) {
      constexpr int kCount = sizeof(stretch.value) / sizeof(T);
      float gradient[kCount];
      RORA_UNROLL
      for (int j = 0; j < kCount; ++j) {
        gradient[j] = exponential(widen(stretch.value[j]) - greatest) * scale;
      }
      if (target >= i && target < i + kCount) {
        RORA_UNROLL
        for (int j = 0; j < kCount; ++j) {
          gradient[j] -= i + j == target ? 1.0f : 0.0f;
        }
      }
      store(gradient, logits + i);
    });
  }

 private:
  static constexpr uint32_t kNaN = 0x7FC00000u, kMinusInfinity = 0xFF800000u;

  /// What to subtract before e^: 0 where all logits so far are −∞, as −∞ − (−∞) is no number.
  static RORA_DEVICE float finite(float greatest) {
    return greatest == bits_to_float(kMinusInfinity) ? 0.0f : greatest;
  }
  static RORA_DEVICE float scale_between(float before, float after) {
    return exponential(before - finite(after));
  }

  /// No loss, and zeros as the gradient.
  RORA_DEVICE void ignore(T* logits) const {
    if (thread_index() == 0) {
      static_cast<float*>(p.losses)[block_x()] = 0.0f;
    }
    for (int64_t i = thread_index(); p.gradient && i < p.vocab; i += kThreads) {
      const float zero[1] = {0.0f};
      store(zero, logits + i);
    }
  }

  /// Calls f(stretch, i) for the stretches of a row that fall to this thread: packets where rows begin at their
  /// boundaries, single numbers for the rest.
  template <class F>
  RORA_DEVICE void for_logits(const T* logits, F f) const {
    constexpr int kCount = Packet<T>::kCount;
    const int64_t whole = packets ? p.vocab / kCount * kCount : 0;
    for_stretches<kCount>(logits, 0, whole, f);
    for_stretches<1>(logits, whole, p.vocab, f);
  }
  template <int N, class F>
  static RORA_DEVICE void for_stretches(const T* logits, int64_t begin, int64_t end, F f) {
    constexpr int64_t kStep = int64_t{kThreads} * N;
    int64_t i = begin + int64_t{thread_index()} * N;
    for (; i + (kAtOnce - 1) * kStep < end; i += kAtOnce * kStep) {
      Stretch<T, N> fetched[kAtOnce];
      RORA_UNROLL
      for (int k = 0; k < kAtOnce; ++k) {
        fetched[k] = fetch<N>(logits + i + k * kStep);
      }
      RORA_UNROLL
      for (int k = 0; k < kAtOnce; ++k) {
        f(fetched[k], i + k * kStep);
      }
    }
    for (; i < end; i += kStep) {
      f(fetch<N>(logits + i), i);
    }
  }
};

} // namespace rora::kernels::cuda
