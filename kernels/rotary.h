#pragma once

#include "parameters.h"
#include "rows.h"

namespace rora::kernels::cuda {

/// Each head x of each token turned: y₁ = x₁⊙cos₁ ∓ x₂⊙sin₁ and y₂ = x₂⊙cos₂ ± x₁⊙sin₂ for its halves, the lower signs
/// where `inverse`. Items are tokens, pairs batch·seq. A thread takes the packet at one place of both halves in
/// `kHeads` heads of a token, so that it reads the tables once for these. Reads x once, writes y once; y may be x.
template <class T>
struct Rotary {
  static constexpr int kThreads = 128;
  static constexpr int kHeads = 4;
  RotaryParameters p;
  int64_t items;
  bool packets;

  Rotary(const RotaryParameters& p, int64_t items) : p(p), items(items) {
    packets = p.head_dim / 2 % Packet<T>::kCount == 0 && fits_packets<T>(p.cos, p.table_batch_stride) &&
        fits_packets<T>(p.sin, p.table_batch_stride);
    for (int i = 0; i < 3; ++i) {
      packets = packets && fits_packets<T>(p.x, p.x_stride[i]) && fits_packets<T>(p.y, p.y_stride[i]);
    }
  }

  Geometry geometry() const {
    const int64_t places_of_half = p.head_dim / 2 / (packets ? Packet<T>::kCount : 1);
    return {divide_up(items * divide_up(p.heads, kHeads) * places_of_half, kThreads)};
  }

  RORA_DEVICE void operator()() const {
    if (packets) {
      turn<Packet<T>::kCount>();
    } else {
      turn<1>();
    }
  }

 private:
  template <int N>
  RORA_DEVICE void turn() const {
    const int64_t half = p.head_dim / 2;
    const int64_t places_of_half = half / N;
    const int64_t head_groups = divide_up(p.heads, kHeads);
    const int64_t place = block_x() * kThreads + thread_index();
    const int64_t group = place / places_of_half;
    const int64_t item = group / head_groups;
    if (item >= items) {
      return;
    }
    const int64_t j = (place - group * places_of_half) * N;
    const int64_t first_head = (group - item * head_groups) * kHeads;
    const int64_t batch = item / p.seq;
    const int64_t token = item - batch * p.seq;
    const int heads = static_cast<int>(p.heads - first_head < kHeads ? p.heads - first_head : kHeads);

    const T* x =
        static_cast<const T*>(p.x) + batch * p.x_stride[0] + first_head * p.x_stride[1] + token * p.x_stride[2] + j;
    T* y = static_cast<T*>(p.y) + batch * p.y_stride[0] + first_head * p.y_stride[1] + token * p.y_stride[2] + j;
    const int64_t table = batch * p.table_batch_stride + token * p.head_dim + j;
    const T* cos = static_cast<const T*>(p.cos) + table;
    const T* sin = static_cast<const T*>(p.sin) + table;
    const auto cos_1 = fetch<N>(cos), cos_2 = fetch<N>(cos + half), sin_1 = fetch<N>(sin), sin_2 = fetch<N>(sin + half);
    Stretch<T, N> x_1[kHeads] = {}, x_2[kHeads] = {};
    RORA_UNROLL
    for (int head = 0; head < kHeads; ++head) {
      if (head < heads) {
        x_1[head] = fetch<N>(x + head * p.x_stride[1]);
        x_2[head] = fetch<N>(x + head * p.x_stride[1] + half);
      }
    }
    const float sign = p.inverse ? -1.0f : 1.0f;
    RORA_UNROLL
    for (int head = 0; head < kHeads; ++head) {
      float y_1[N], y_2[N];
      RORA_UNROLL
      for (int i = 0; i < N; ++i) {
        const float of_x_1 = widen(x_1[head].value[i]), of_x_2 = widen(x_2[head].value[i]);
        y_1[i] = of_x_1 * widen(cos_1.value[i]) - of_x_2 * (sign * widen(sin_1.value[i]));
        y_2[i] = of_x_2 * widen(cos_2.value[i]) + of_x_1 * (sign * widen(sin_2.value[i]));
      }
      if (head < heads) {
        store(y_1, y + head * p.y_stride[1]);
        store(y_2, y + head * p.y_stride[1] + half);
      }
    }
  }
};

} // namespace rora::kernels::cuda
