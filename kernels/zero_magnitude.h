#pragma once

#include "block_sum.h"
#include "parameters.h"

namespace rora::kernels::cuda {

/// The gradient of DoRA's magnitude where the magnitude is 0, so that the layer's output says nothing of the direction:
/// gradient_i = Σ_t dy_ti·(x_t·W_i + Ŝ_t·B_i)/norm_i, and 0 where norm_i is 0. A block looks at kColumns outputs and
/// does nothing but read their magnitudes as long as none is 0, which is nearly always; for one that is, it reads the
/// output's column of dy, W's and B's row, and all of x and Ŝ, once.
template <class T>
struct ZeroMagnitude {
  static constexpr int kThreads = 256;
  static constexpr int kColumns = 32;
  ZeroMagnitudeParameters p;
  int64_t columns;

  ZeroMagnitude(const ZeroMagnitudeParameters& p, int64_t columns) : p(p), columns(columns) {}

  Geometry geometry() const {
    return {divide_up(columns, kColumns), 1, kThreads / kWarp * static_cast<int64_t>(sizeof(float))};
  }

  RORA_DEVICE void operator()() const {
    const int64_t begin = block_x() * kColumns;
    for (int64_t column = begin; column < begin + kColumns && column < columns; ++column) {
      if (p.magnitude[column] != 0.0f) {
        continue; // the same for all threads of the block
      }
      const float norm = p.norm[column];
      float sum = 0.0f;
      if (norm > 0.0f) {
        sum = of_row<T>(p.x, static_cast<const T*>(p.weight.data) + column * p.weight.stride, p.depth, column) +
            of_row<float>(p.shrunk, static_cast<const float*>(p.b.data) + column * p.b.stride, p.rank, column);
      }
      sum = block_sum<kThreads>(sum, reinterpret_cast<float*>(shared_memory()));
      if (thread_index() == 0) {
        p.gradient[column] = norm > 0.0f ? sum / norm : 0.0f;
      }
      sync_block();
    }
  }

  /// This thread's share of Σ_k (Σ_t dy_t·left_tk)·right_k.
  template <class Right>
  RORA_DEVICE float of_row(const Rows& left, const Right* right, int64_t depth, int64_t column) const {
    const T* dy = static_cast<const T*>(p.dy.data) + column;
    float sum = 0.0f;
    for (int64_t k = thread_index(); k < depth; k += kThreads) {
      const T* at = static_cast<const T*>(left.data) + k;
      float share = 0.0f;
      for (int64_t row = 0; row < p.rows; ++row) {
        share += widen(dy[row * p.dy.stride]) * widen(at[row * left.stride]);
      }
      sum += share * widen(right[k]);
    }
    return sum;
  }
};

} // namespace rora::kernels::cuda
