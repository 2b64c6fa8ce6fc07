#pragma once

#include "block_sum.h"
#include "parameters.h"
#include "rows.h"

namespace rora::kernels::cuda {

/// ‖W + s·B·A‖ of each row from what the expansion needs of A and W: n²_i = ‖W‖²_i + Σ_k B_ik·(2s·(W·Aᵀ)_ik +
/// s²·(B·gram)_ik), gram = A·Aᵀ, and the root of it or of 0. B is of T, all else float. A warp takes `kRows` rows and,
/// of their rank, `kColumns` numbers a lane at a time, so that each of gram's serves as many rows. Reads ‖W‖² and W·Aᵀ
/// once, B from the cache but for the first time; writes the norms.
template <class T>
struct DoRANorm {
  static constexpr int kThreads = 128;
  static constexpr int kRows = 4;
  static constexpr int kColumns = 4;
  DoRANormParameters p;
  int64_t rows;

  DoRANorm(const DoRANormParameters& p, int64_t rows) : p(p), rows(rows) {}

  Geometry geometry() const {
    return {divide_up(rows, kThreads / kWarp * kRows)};
  }

  RORA_DEVICE void operator()() const {
    const int64_t first = (block_x() * (kThreads / kWarp) + warp_index()) * kRows;
    const T* b[kRows]; // rows that are none read the last one's numbers
    RORA_UNROLL
    for (int i = 0; i < kRows; ++i) {
      b[i] = static_cast<const T*>(p.b.data) + (first + i < rows ? first + i : rows - 1) * p.b.stride;
    }
    const float scale = static_cast<float>(p.scale);
    float sums[kRows] = {};
    for (int64_t begin = lane_index(); begin - lane_index() < p.rank; begin += kWarp * kColumns) {
      float products[kRows][kColumns] = {};
      for (int64_t j = 0; j < p.rank; ++j) {
        float of_gram[kColumns];
        RORA_UNROLL
        for (int c = 0; c < kColumns; ++c) {
          const int64_t k = begin + c * kWarp;
          of_gram[c] = k < p.rank ? p.gram[j * p.rank + k] : 0.0f;
        }
        RORA_UNROLL
        for (int i = 0; i < kRows; ++i) {
          const float of_b = widen(b[i][j]);
          RORA_UNROLL
          for (int c = 0; c < kColumns; ++c) {
            products[i][c] += of_b * of_gram[c];
          }
        }
      }
      RORA_UNROLL
      for (int i = 0; i < kRows; ++i) {
        RORA_UNROLL
        for (int c = 0; c < kColumns; ++c) {
          const int64_t k = begin + c * kWarp;
          if (first + i < rows && k < p.rank) {
            const float of_weight = p.product[(first + i) * p.product_stride[0] + k * p.product_stride[1]];
            sums[i] += widen(b[i][k]) * (2.0f * scale * of_weight + scale * scale * products[i][c]);
          }
        }
      }
    }
    RORA_UNROLL
    for (int i = 0; i < kRows; ++i) {
      const float sum = warp_sum(sums[i]);
      if (lane_index() == 0 && first + i < rows) {
        p.norm[first + i] = square_root(larger(0.0f, p.weight_norm_squared[first + i] + sum));
      }
    }
  }
};

} // namespace rora::kernels::cuda
