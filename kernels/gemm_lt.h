#pragma once

// Products by cuBLASLt.

#include "gemm_layout.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <mutex>
#include <unordered_map>

namespace rora::kernels::cuda {

/// What cuBLASLt may use beside the matrices.
constexpr int64_t kGemmWorkspaceBytes = int64_t{32} << 20;

/// Where a product runs.
struct GemmPlace {
  cublasLtHandle_t handle = nullptr;
  cudaStream_t stream = nullptr;
  void* workspace = nullptr; ///< `kGemmWorkspaceBytes`, 256-byte aligned
  /// `GemmShape::result_bytes` to try algorithms in where the shape is new: the fastest of several is then taken. Null:
  /// cuBLASLt's own first choice. Trying them waits for the stream; under capture nothing is tried.
  void* trial = nullptr;
};

/// The algorithms that products run by, each found once. Several threads may share it.
///
/// Sums are fp32 to the end of a product: no algorithm is taken that splits the depth and adds the shares up in the
/// result's type. An algorithm gives the same bits in every run; cuBLASLt's first choice is always the same one, while
/// that of a trial may differ from run to run.
class GemmAlgorithms {
 public:
  /// Puts the product on the stream. CUBLAS_STATUS_NOT_SUPPORTED where cuBLASLt has no algorithm for the shape.
  cublasStatus_t run(const GemmCall& call, const GemmPlace& place);

  /// Whether a shape's algorithm has been found already.
  bool knows(const GemmShape& shape);

 private:
  struct Algorithm {
    cublasLtMatmulAlgo_t algorithm{};
    cublasStatus_t status = CUBLAS_STATUS_NOT_SUPPORTED;
  };

  std::mutex mutex_; // guards the rest
  std::unordered_map<GemmShape, Algorithm, GemmShapeHash> found_;
};

} // namespace rora::kernels::cuda
