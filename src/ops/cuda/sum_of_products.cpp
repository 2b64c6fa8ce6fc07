#include <rora/ops/sum_of_products.h>

#include "gemm_sum.h"

#include <ATen/ATen.h>
#include <torch/library.h>

#if defined(RORA_HAS_CUDA)
#include <kernels/gemm_lt.h>

#include <ATen/Context.h>
#include <ATen/cuda/CUDAContext.h>

#include <cstdlib>
#include <string_view>

namespace rora::ops {
namespace {

/// RORA_CUDA_GEMM=timed in the environment has algorithms tried for each new shape, where cuBLASLt's first choice is
/// taken otherwise.
bool tries_algorithms() {
  static const bool tries = [] {
    const char* value = std::getenv("RORA_CUDA_GEMM");
    return value != nullptr && std::string_view(value) == "timed";
  }();
  return tries;
}

/// Never destroyed: threads may outlive static objects.
kernels::cuda::GemmAlgorithms& algorithms() {
  static auto* const all = new kernels::cuda::GemmAlgorithms;
  return *all;
}

bool add_into(at::Tensor& y, at::TensorList a, at::TensorList b, double scale, bool accumulate) {
  if (!detail::has_gemm(a, b, y)) {
    return false;
  }
  const c10::DeviceGuard guard(y.device());
  const bool tf32 = at::globalContext().float32Precision(at::Float32Backend::CUDA, at::Float32Op::MATMUL) ==
      at::Float32Precision::TF32;
  const auto bytes = [&](int64_t count) { return at::empty({count}, y.options().dtype(at::kByte)); };
  const at::Tensor workspace = bytes(kernels::cuda::kGemmWorkspaceBytes);
  kernels::cuda::GemmPlace place;
  place.handle = at::cuda::getCurrentCUDABlasLtHandle();
  place.stream = at::cuda::getCurrentCUDAStream();
  place.workspace = workspace.data_ptr();
  return detail::sum_by_gemms(y, a, b, scale, accumulate, tf32, [&](const kernels::cuda::GemmRequest& request) {
    const kernels::cuda::GemmCall call = kernels::cuda::gemm_call(request, y.get_device());
    at::Tensor trial;
    if (tries_algorithms() && !algorithms().knows(call.shape)) {
      trial = bytes(call.shape.result_bytes());
    }
    place.trial = trial.defined() ? trial.data_ptr() : nullptr;
    const cublasStatus_t status = algorithms().run(call, place);
    TORCH_CHECK(
        status == CUBLAS_STATUS_SUCCESS || status == CUBLAS_STATUS_NOT_SUPPORTED, "cuBLASLt on a product of ",
        request.rows, " by ", request.depth, " by ", request.columns, ": ", cublasLtGetStatusString(status));
    return status == CUBLAS_STATUS_SUCCESS;
  });
}

at::Tensor& sum_of_products_cuda_(at::Tensor& y, at::TensorList a, at::TensorList b, double scale, bool accumulate) {
  detail::check_products(a, b);
  detail::check_result(y, a, b);
  if (!add_into(y, a, b, scale, accumulate)) {
    return reference::sum_of_products_(y, a, b, scale, accumulate);
  }
  detail::mark_changed(y);
  return y;
}

at::Tensor sum_of_products_cuda(
    at::TensorList a,
    at::TensorList b,
    double scale,
    const std::optional<at::Tensor>& column_scale,
    std::optional<at::ScalarType> dtype) {
  detail::check_products(a, b, column_scale);
  at::Tensor y = at::empty({a[0].size(0), b[0].size(1)}, a[0].options().dtype(dtype.value_or(a[0].scalar_type())));
  if (!add_into(y, a, b, scale, /*accumulate=*/false)) {
    return reference::sum_of_products(a, b, scale, column_scale, dtype);
  }
  if (column_scale) {
    y.mul_(column_scale->to(at::kFloat)); // multiplied in fp32 and rounded to y's dtype
  }
  return y;
}

TORCH_LIBRARY_IMPL(rora, CUDA, m) {
  m.impl("sum_of_products", sum_of_products_cuda);
  m.impl("sum_of_products_", sum_of_products_cuda_);
}

} // namespace
} // namespace rora::ops
#endif
