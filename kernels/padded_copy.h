#pragma once

#include "device.h"
#include "parameters.h"

namespace rora::kernels::cuda {

/// Matrices copied in one launch, each rounded to its new type, with zeros to the right of it and below: to[i][j] =
/// from[i][j], or 0 outside of it. A thread takes a number; a row of blocks takes a matrix. Reads each number once,
/// writes (`=`) each once.
struct PaddedCopy {
  static constexpr int kThreads = 256;
  PaddedCopyParameters p;

  explicit PaddedCopy(const PaddedCopyParameters& p) : p(p) {}

  Geometry geometry() const {
    int64_t most = 0;
    for (int i = 0; i < p.count; ++i) {
      const int64_t size = p.matrices[i].to_rows * p.matrices[i].to_columns;
      most = size > most ? size : most;
    }
    return {divide_up(most, kThreads), p.count};
  }

  RORA_DEVICE void operator()() const {
    const PaddedCopyParameters::Matrix& m = p.matrices[block_y()];
    const int64_t place = block_x() * kThreads + thread_index();
    const int64_t row = place / m.to_columns;
    if (row >= m.to_rows) {
      return;
    }
    const int64_t column = place - row * m.to_columns;
    float value = 0.0f;
    if (row < m.rows && column < m.columns) {
      const int64_t i = row * m.from.stride + column;
      value = m.from_type == Type::kBFloat16 ? widen(static_cast<const BFloat16*>(m.from.data)[i])
                                             : static_cast<const float*>(m.from.data)[i];
    }
    const int64_t i = row * m.to.stride + column;
    if (m.to_type == Type::kBFloat16) {
      static_cast<BFloat16*>(m.to.data)[i] = rounded<BFloat16>(value);
    } else {
      static_cast<float*>(m.to.data)[i] = value;
    }
  }
};

} // namespace rora::kernels::cuda
