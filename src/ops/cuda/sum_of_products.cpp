#include <rora/core/sum_of_products.h>

#include "../scale_columns.h"
#include "gemm_sum.h"

#include <ATen/ATen.h>
#include <torch/library.h>

#if defined(RORA_HAS_CUDA)
#include <kernels/gemm_lt.h>

#include <ATen/Context.h>
#include <ATen/cuda/CUDAContext.h>

#include <cstdlib>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#if defined(RORA_HAS_CUTLASS)
#include "kappend_sum.h"
#include "trial.h"

#include <kernels/gemm_kappend_sm90.h>

#include <c10/cuda/CUDAException.h>
#endif

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

bool add_by_gemms(at::Tensor& y, at::TensorList a, at::TensorList b, double scale, bool accumulate) {
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

#if defined(RORA_HAS_CUTLASS)
using kernels::cuda::KAppendParameters;
using kernels::cuda::KAppendTile;

/// The forms of a sum of a deep and a thin product: a GEMM for each, or both in one kernel, by its tiles.
enum Form { kGemms, k128x128, k128x256, kForms };

std::optional<KAppendTile> tile_of(Form form) {
  switch (form) {
    case k128x128:
      return KAppendTile::k128x128;
    case k128x256:
      return KAppendTile::k128x256;
    default:
      return std::nullopt;
  }
}

/// How a sum's form is chosen: by what tests/gpu/tune.py has found, one for all, or by one trial of each shape.
enum class Choice { kTuned, kGiven, kTimed };

/// RORA_CUDA_SUM in the environment: gemms, 128x128 or 128x256 has that form taken wherever it can be, and timed the
/// fastest of one trial of each shape. Throws ValueError for another value.
std::pair<Choice, Form> asked_for() {
  const char* value = std::getenv("RORA_CUDA_SUM");
  const std::string_view name = value != nullptr ? value : "";
  const std::pair<const char*, Form> forms[] = {{"gemms", kGemms}, {"128x128", k128x128}, {"128x256", k128x256}};
  for (const auto& [known, form] : forms) {
    if (name == known) {
      return {Choice::kGiven, form};
    }
  }
  TORCH_CHECK_VALUE(
      name.empty() || name == "timed", "RORA_CUDA_SUM is '", name, "', not gemms, 128x128, 128x256 or timed");
  return {name.empty() ? Choice::kTuned : Choice::kTimed, kGemms};
}

const detail::TunedForms<detail::TunedSum>& tuned_forms() {
  static const std::vector<detail::TunedSum> found{
#include "tuned_sums.inc"
  };
  static const detail::TunedForms<detail::TunedSum> all(found);
  return all;
}

/// Never destroyed: threads may outlive static objects.
detail::FastestForms<detail::SumShape>& fastest_forms() {
  static auto* const all = new detail::FastestForms<detail::SumShape>;
  return *all;
}

bool kappend(const KAppendParameters& p, const at::Tensor& y) {
  if (!kernels::cuda::fits(p, y.get_device())) {
    return false;
  }
  const int64_t bytes = kernels::cuda::kappend_workspace_bytes(p);
  const at::Tensor workspace = bytes > 0 ? at::empty({bytes}, y.options().dtype(at::kByte)) : at::Tensor();
  C10_CUDA_CHECK(kernels::cuda::gemm_kappend(
      p, workspace.defined() ? workspace.data_ptr() : nullptr, at::cuda::getCurrentCUDAStream()));
  return true;
}

/// The fastest form of a deep and a thin pair, or the one that is to be taken.
Form form_of(const KAppendParameters& deep, const at::Tensor& y, at::TensorList a, at::TensorList b) {
  static const std::pair<Choice, Form> asked = asked_for();
  if (asked.first != Choice::kTimed) {
    return asked.first == Choice::kGiven ? asked.second
                                         : static_cast<Form>(tuned_forms().of(detail::sum_shape(deep, y.get_device())));
  }
  const double scale = deep.alpha;
  const bool accumulate = deep.beta != 0.0f;
  at::Tensor result; // of trials
  const auto run = [&](int form) {
    result = result.defined() ? result : at::empty_like(y);
    const auto tile = tile_of(static_cast<Form>(form));
    return tile ? detail::sum_by_kappend(
                      result, a, b, scale, accumulate, *tile, [&](const auto& p) { return kappend(p, result); })
                : add_by_gemms(result, a, b, scale, accumulate);
  };
  return static_cast<Form>(
      detail::form_by_trial(fastest_forms(), detail::sum_shape(deep, y.get_device()), kForms, run));
}

/// Two of the products in one kernel, where that is faster than a GEMM for each; false, and nothing is done, where it
/// is not.
bool add_by_kappend(at::Tensor& y, at::TensorList a, at::TensorList b, double scale, bool accumulate) {
  return kernels::cuda::has_kappend(y.get_device()) &&
      detail::sum_with_kappend(
             y, a, b, scale, accumulate,
             [&](const auto& deep, auto deep_a, auto deep_b) { return tile_of(form_of(deep, y, deep_a, deep_b)); },
             [&](const auto& p) { return kappend(p, y); },
             [&](at::Tensor& result, auto other_a, auto other_b, bool adds) {
               return add_by_gemms(result, other_a, other_b, scale, adds);
             });
}
#endif

bool add_into(at::Tensor& y, at::TensorList a, at::TensorList b, double scale, bool accumulate) {
  if (!detail::has_gemm(a, b, y)) {
    return false;
  }
  const c10::DeviceGuard guard(y.device());
  const detail::Pairs pairs = detail::join_pairs(a, b);
#if defined(RORA_HAS_CUTLASS)
  if (add_by_kappend(y, pairs.a, pairs.b, scale, accumulate)) {
    return true;
  }
#endif
  return add_by_gemms(y, pairs.a, pairs.b, scale, accumulate);
}

at::Tensor& sum_of_products_cuda_(at::Tensor& y, at::TensorList a, at::TensorList b, double scale, bool accumulate) {
  detail::check_products(a, b);
  detail::check_result(y, a, b);
  return add_into(y, a, b, scale, accumulate) ? y : reference::sum_of_products_(y, a, b, scale, accumulate);
}

at::Tensor sum_of_products_cuda(
    at::TensorList a, at::TensorList b, double scale, const std::optional<at::Tensor>& column_scale,
    std::optional<at::ScalarType> dtype) {
  detail::check_products(a, b, column_scale);
  at::Tensor y = at::empty({a[0].size(0), b[0].size(1)}, a[0].options().dtype(dtype.value_or(a[0].scalar_type())));
  if (!add_into(y, a, b, scale, /*accumulate=*/false)) {
    return reference::sum_of_products(a, b, scale, column_scale, dtype);
  }
  if (column_scale) {
    detail::scale_columns_(y, *column_scale);
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
