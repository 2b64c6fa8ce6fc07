#pragma once

#include "parameters.h"
#include "rows.h"

namespace rora::kernels::cuda {

/// y = silu(gate)⊙up with silu(g) = g·σ(g) rounded to T, as transformers does. Each thread of the grid takes one packet
/// of one row, whatever the rows' size. Reads gate and up once, writes y once; y may be gate or up.
template <class T>
struct SwiGLU {
  static constexpr int kThreads = 256;
  SwiGLUParameters p;
  int64_t rows;
  bool packets;

  SwiGLU(const SwiGLUParameters& p, int64_t rows)
      : p(p), rows(rows), packets(whole_packets<T>(p.size, p.gate, p.up, p.y)) {}

  Geometry geometry() const {
    return {blocks_of_rows<T, kThreads>(rows, p.size, packets)};
  }

  RORA_DEVICE void operator()() const {
    for_place_in_rows<T, kThreads>(rows, p.size, packets, [&](auto count, int64_t row, int64_t i) {
      float gate[count.kCount], up[count.kCount];
      load(static_cast<const T*>(p.gate.data) + row * p.gate.stride + i, gate);
      load(static_cast<const T*>(p.up.data) + row * p.up.stride + i, up);
      RORA_UNROLL
      for (int j = 0; j < count.kCount; ++j) {
        up[j] *= widen(rounded<T>(gate[j] * sigmoid(gate[j])));
      }
      store(up, static_cast<T*>(p.y.data) + row * p.y.stride + i);
    });
  }
};

/// dgate = dy⊙up⊙σ(g)(1 + g(1 − σ(g))) and dup = dy⊙g⊙σ(g), g = gate, with a thread a packet as in forward. Reads dy,
/// gate and up once, writes dgate and dup once; these may be any of the three.
template <class T>
struct SwiGLUBackward {
  static constexpr int kThreads = 256;
  SwiGLUParameters p;
  int64_t rows;
  bool packets;

  SwiGLUBackward(const SwiGLUParameters& p, int64_t rows)
      : p(p), rows(rows), packets(whole_packets<T>(p.size, p.gate, p.up, p.dy, p.dgate, p.dup)) {}

  Geometry geometry() const {
    return {blocks_of_rows<T, kThreads>(rows, p.size, packets)};
  }

  RORA_DEVICE void operator()() const {
    for_place_in_rows<T, kThreads>(rows, p.size, packets, [&](auto count, int64_t row, int64_t i) {
      float gate[count.kCount], up[count.kCount], dy[count.kCount];
      load(static_cast<const T*>(p.gate.data) + row * p.gate.stride + i, gate);
      load(static_cast<const T*>(p.up.data) + row * p.up.stride + i, up);
      load(static_cast<const T*>(p.dy.data) + row * p.dy.stride + i, dy);
      RORA_UNROLL
      for (int j = 0; j < count.kCount; ++j) {
        const float g = gate[j], s = sigmoid(g);
        gate[j] = dy[j] * up[j] * s * (1.0f + g * (1.0f - s));
        up[j] = dy[j] * (g * s);
      }
      store(gate, static_cast<T*>(p.dgate.data) + row * p.dgate.stride + i);
      store(up, static_cast<T*>(p.dup.data) + row * p.dup.stride + i);
    });
  }
};

} // namespace rora::kernels::cuda
