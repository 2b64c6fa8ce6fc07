#pragma once

// How a product of matrices is put to cuBLASLt, which reads memory column by column: arithmetic alone, without CUDA.

#include "parameters.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>

namespace rora::kernels::cuda {

/// Where a matrix lies: dense rows, `stride` elements apart, of it or, `transposed`, of its transpose.
struct GemmMatrix {
  const void* data = nullptr;
  int64_t stride = 0;
  bool transposed = false;
};

/// C = alpha·A·B + beta·C: A `[rows, depth]`, B `[depth, columns]` and C `[rows, columns]`, none of them empty. C is
/// read only where beta is not 0.
struct GemmRequest {
  Type type{}; ///< of A and B: float or bfloat16
  Type c_type{}; ///< float or that of A and B
  bool tf32 = false; ///< products of float may round what they multiply to TF32
  int64_t rows = 0, columns = 0, depth = 0;
  GemmMatrix a; ///< read
  GemmMatrix b; ///< read
  GemmMatrix c; ///< written
  float alpha = 1.0f, beta = 0.0f;
};

/// What an algorithm is chosen by. All matrices lie by columns: D `[m, n]` = alpha·op(L)·op(R) + beta·D, where L in
/// memory is `[m, k]`, or `[k, m]` where `left_transposed`, and R `[k, n]` or `[n, k]`; strides are between columns.
struct GemmShape {
  int64_t m = 0, n = 0, k = 0;
  int64_t left_stride = 0, right_stride = 0, result_stride = 0;
  int64_t left_alignment = 0, right_alignment = 0, result_alignment = 0; ///< of the first elements, in bytes
  bool left_transposed = false, right_transposed = false;
  Type type{}, result_type{};
  bool tf32 = false;
  int64_t device = 0;

  bool operator==(const GemmShape&) const = default;

  int64_t left_rows() const {
    return left_transposed ? k : m;
  }
  int64_t left_columns() const {
    return left_transposed ? m : k;
  }
  int64_t right_rows() const {
    return right_transposed ? n : k;
  }
  int64_t right_columns() const {
    return right_transposed ? k : n;
  }
  /// From the first element of D to behind its last.
  int64_t result_bytes() const {
    return ((n - 1) * result_stride + m) * (result_type == Type::kBFloat16 ? 2 : 4);
  }
};

struct GemmShapeHash {
  size_t operator()(const GemmShape& s) const {
    size_t hash = 0;
    for (const int64_t each :
         {s.m, s.n, s.k, s.left_stride, s.right_stride, s.result_stride, s.left_alignment, s.right_alignment,
          s.result_alignment, int64_t{s.left_transposed}, int64_t{s.right_transposed}, static_cast<int64_t>(s.type),
          static_cast<int64_t>(s.result_type), int64_t{s.tf32}, s.device}) {
      hash ^= std::hash<int64_t>()(each) + size_t{0x9E3779B97F4A7C15u} + (hash << 6) + (hash >> 2);
    }
    return hash;
  }
};

/// A request as cuBLASLt takes it.
struct GemmCall {
  GemmShape shape;
  const void* left = nullptr;
  const void* right = nullptr;
  void* result = nullptr;
  float alpha = 1.0f, beta = 0.0f;
};

/// How a matrix of these sizes and strides, in elements, lies. None where neither its rows nor its columns are dense
/// and apart from each other.
inline std::optional<GemmMatrix> gemm_matrix(
    const void* data, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride) {
  const auto are_rows = [](int64_t count, int64_t width, int64_t stride, int64_t step) {
    return (width <= 1 || step == 1) && (count <= 1 || stride >= std::max<int64_t>(1, width));
  };
  // The stride of a single row means nothing and may be anything.
  const auto valid = [](int64_t count, int64_t width, int64_t stride) {
    return count <= 1 ? std::max<int64_t>(1, width) : stride;
  };
  if (are_rows(rows, columns, row_stride, column_stride)) {
    return GemmMatrix{data, valid(rows, columns, row_stride), false};
  }
  if (are_rows(columns, rows, column_stride, row_stride)) {
    return GemmMatrix{data, valid(columns, rows, column_stride), true};
  }
  return std::nullopt;
}

/// The greatest power of two, at most 256, that divides the address.
inline int64_t alignment_of(const void* data) {
  constexpr uintptr_t kMost = 256;
  const auto address = reinterpret_cast<uintptr_t>(data) | kMost;
  return static_cast<int64_t>(address & (~address + 1));
}

/// Rows in memory are columns to cuBLASLt. So it forms Cᵀ = Bᵀ·Aᵀ where C lies by rows, each matrix as it is; where Cᵀ
/// does, it forms C = A·B of transposes.
inline GemmCall gemm_call(const GemmRequest& request, int64_t device) {
  const bool turned = request.c.transposed;
  const GemmMatrix& left = turned ? request.a : request.b;
  const GemmMatrix& right = turned ? request.b : request.a;
  GemmCall call;
  GemmShape& shape = call.shape;
  shape.m = turned ? request.rows : request.columns;
  shape.n = turned ? request.columns : request.rows;
  shape.k = request.depth;
  shape.left_stride = left.stride;
  shape.right_stride = right.stride;
  shape.result_stride = request.c.stride;
  shape.left_alignment = alignment_of(left.data);
  shape.right_alignment = alignment_of(right.data);
  shape.result_alignment = alignment_of(request.c.data);
  shape.left_transposed = left.transposed != turned;
  shape.right_transposed = right.transposed != turned;
  shape.type = request.type;
  shape.result_type = request.c_type;
  shape.tf32 = request.tf32 && request.type == Type::kFloat;
  shape.device = device;
  call.left = left.data;
  call.right = right.data;
  call.result = const_cast<void*>(request.c.data);
  call.alpha = request.alpha;
  call.beta = request.beta;
  return call;
}

} // namespace rora::kernels::cuda
