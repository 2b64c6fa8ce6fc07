#include "gemm_lt.h"

#include "timing.h"

#include <algorithm>
#include <array>
#include <initializer_list>
#include <limits>

namespace rora::kernels::cuda {
namespace {

constexpr int kMostCandidates = 8;
/// Shapes of batches of ever new lengths must not fill the memory.
constexpr size_t kMostShapes = 16384;

/// cuBLASLt's descriptors of a shape.
struct Descriptors {
  cublasLtMatmulDescOpaque_t operation{};
  cublasLtMatrixLayoutOpaque_t left{}, right{}, result{};
};

cublasStatus_t first_failure(std::initializer_list<cublasStatus_t> all) {
  for (const cublasStatus_t each : all) {
    if (each != CUBLAS_STATUS_SUCCESS) {
      return each;
    }
  }
  return CUBLAS_STATUS_SUCCESS;
}

cudaDataType_t data_type(Type type) {
  return type == Type::kBFloat16 ? CUDA_R_16BF : CUDA_R_32F;
}

cublasStatus_t describe(const GemmShape& shape, Descriptors& d) {
  const auto operation = [](bool transposed) { return transposed ? CUBLAS_OP_T : CUBLAS_OP_N; };
  const auto layout = [](cublasLtMatrixLayout_t matrix, Type type, int64_t rows, int64_t columns, int64_t stride) {
    return cublasLtMatrixLayoutInit(
        matrix, data_type(type), static_cast<uint64_t>(rows), static_cast<uint64_t>(columns), stride);
  };
  const cublasComputeType_t compute = shape.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
  const cublasOperation_t left = operation(shape.left_transposed), right = operation(shape.right_transposed);
  return first_failure(
      {cublasLtMatmulDescInit(&d.operation, compute, CUDA_R_32F),
       cublasLtMatmulDescSetAttribute(&d.operation, CUBLASLT_MATMUL_DESC_TRANSA, &left, sizeof(left)),
       cublasLtMatmulDescSetAttribute(&d.operation, CUBLASLT_MATMUL_DESC_TRANSB, &right, sizeof(right)),
       layout(&d.left, shape.type, shape.left_rows(), shape.left_columns(), shape.left_stride),
       layout(&d.right, shape.type, shape.right_rows(), shape.right_columns(), shape.right_stride),
       layout(&d.result, shape.result_type, shape.m, shape.n, shape.result_stride)});
}

/// cuBLASLt's choices, the best by its own estimate first.
struct Candidates {
  std::array<cublasLtMatmulHeuristicResult_t, kMostCandidates> all{};
  int count = 0;
};

cublasStatus_t find_candidates(
    const GemmShape& shape, Descriptors& d, cublasLtHandle_t handle, int wanted, Candidates& candidates) {
  cublasLtMatmulPreferenceOpaque_t preference{};
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    return cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof(value));
  };
  const auto alignment = [&](cublasLtMatmulPreferenceAttributes_t attribute, int64_t bytes) {
    return set(attribute, static_cast<uint32_t>(bytes));
  };
  const cublasStatus_t status = first_failure(
      {cublasLtMatmulPreferenceInit(&preference),
       set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(kGemmWorkspaceBytes)),
       set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
           static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE)),
       alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, shape.left_alignment),
       alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, shape.right_alignment),
       alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, shape.result_alignment),
       alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, shape.result_alignment)});
  if (status != CUBLAS_STATUS_SUCCESS) {
    return status;
  }
  int count = 0;
  const cublasStatus_t found = cublasLtMatmulAlgoGetHeuristic(
      handle, &d.operation, &d.left, &d.right, &d.result, &d.result, &preference, wanted, candidates.all.data(),
      &count);
  const auto begin = candidates.all.begin();
  const auto end =
      std::remove_if(begin, begin + count, [](const auto& each) { return each.state != CUBLAS_STATUS_SUCCESS; });
  candidates.count = static_cast<int>(end - begin);
  // An odd stride or alignment may be called invalid instead of unsupported.
  const bool none = found == CUBLAS_STATUS_INVALID_VALUE || (found == CUBLAS_STATUS_SUCCESS && candidates.count == 0);
  return none ? CUBLAS_STATUS_NOT_SUPPORTED : found;
}

/// Reads C of `call.result` and writes D to `result`.
cublasStatus_t multiply(
    const GemmCall& call, Descriptors& d, const GemmPlace& place, const cublasLtMatmulAlgo_t& algorithm, void* result) {
  return cublasLtMatmul(
      place.handle, &d.operation, &call.alpha, call.left, &d.left, call.right, &d.right, &call.beta, call.result,
      &d.result, result, &d.result, &algorithm, place.workspace, static_cast<size_t>(kGemmWorkspaceBytes),
      place.stream);
}

bool is_capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  return cudaStreamIsCapturing(stream, &status) != cudaSuccess || status != cudaStreamCaptureStatusNone;
}

/// The fastest candidate; the first where none could be timed.
int fastest(const GemmCall& call, Descriptors& d, const GemmPlace& place, const Candidates& candidates) {
  int best = 0;
  float least = std::numeric_limits<float>::infinity();
  for (int i = 0; i < candidates.count; ++i) {
    const cublasLtMatmulAlgo_t& algorithm = candidates.all[static_cast<size_t>(i)].algo;
    const float taken = milliseconds(
        place.stream, [&] { return multiply(call, d, place, algorithm, place.trial) == CUBLAS_STATUS_SUCCESS; });
    if (taken < least) {
      least = taken;
      best = i;
    }
  }
  return best;
}

} // namespace

cublasStatus_t GemmAlgorithms::run(const GemmCall& call, const GemmPlace& place) {
  Descriptors d;
  if (const cublasStatus_t status = describe(call.shape, d); status != CUBLAS_STATUS_SUCCESS) {
    return status;
  }
  Algorithm chosen;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (const auto known = found_.find(call.shape); known != found_.end()) {
      chosen = known->second;
    } else {
      const bool tries = place.trial != nullptr && !is_capturing(place.stream);
      Candidates candidates;
      chosen.status = find_candidates(call.shape, d, place.handle, tries ? kMostCandidates : 1, candidates);
      if (chosen.status == CUBLAS_STATUS_SUCCESS) {
        const int index = tries ? fastest(call, d, place, candidates) : 0;
        chosen.algorithm = candidates.all[static_cast<size_t>(index)].algo;
      } else if (chosen.status != CUBLAS_STATUS_NOT_SUPPORTED) {
        return chosen.status; // may be another the next time
      }
      if (found_.size() >= kMostShapes) {
        found_.clear();
      }
      found_.emplace(call.shape, chosen);
    }
  }
  if (chosen.status != CUBLAS_STATUS_SUCCESS) {
    return chosen.status;
  }
  return multiply(call, d, place, chosen.algorithm, call.result);
}

bool GemmAlgorithms::knows(const GemmShape& shape) {
  const std::lock_guard<std::mutex> lock(mutex_);
  return found_.count(shape) > 0;
}

} // namespace rora::kernels::cuda
