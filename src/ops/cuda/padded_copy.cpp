#include "padded_copy.h"

#include "../launch.h"

#include <rora/core/low_rank_matrices.h>

#include <ATen/ATen.h>

#if defined(RORA_HAS_CUDA)
#include <kernels/kernels.h>

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>
#endif

namespace rora::ops::detail {
namespace {

using kernels::PaddedCopyParameters;

/// Whether the kernel takes x as rows.
bool is_known(const at::Tensor& x) {
  return (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16) && (x.size(1) <= 1 || x.stride(1) == 1);
}

PaddedCopyParameters::Matrix matrix_of(const at::Tensor& to, const at::Tensor& from) {
  PaddedCopyParameters::Matrix matrix;
  matrix.from_type = kernel_type(from);
  matrix.to_type = kernel_type(to);
  matrix.rows = from.size(0);
  matrix.columns = from.size(1);
  matrix.from = kernel_rows(from);
  matrix.to_rows = to.size(0);
  matrix.to_columns = to.size(1);
  matrix.to = kernel_rows(to);
  return matrix;
}

} // namespace

void copy_padded_by(void (*kernel)(const PaddedCopyParameters&), at::TensorList to, at::TensorList from) {
  check_padded_copy(to, from);
  for (size_t i = 0; i < to.size(); ++i) {
    if (!is_known(to[i]) || !is_known(from[i]) || to[i].device() != to[0].device() ||
        from[i].device() != to[0].device()) {
      reference::copy_padded_(to, from);
      return;
    }
  }
  PaddedCopyParameters parameters;
  for (size_t i = 0; i < to.size(); ++i) {
    if (to[i].numel() > 0) {
      parameters.matrices[parameters.count++] = matrix_of(to[i], from[i]);
      mark_changed(to[i]);
    }
    const bool last = i + 1 == to.size();
    if (parameters.count == PaddedCopyParameters::kMost || (last && parameters.count > 0)) {
      kernel(parameters);
      parameters.count = 0;
    }
  }
}

#if defined(RORA_HAS_CUDA)
namespace {

void copy_padded_on_cuda_(at::TensorList to, at::TensorList from) {
  const c10::OptionalDeviceGuard guard(to.empty() ? std::nullopt : std::optional<at::Device>(to[0].device()));
  const auto kernel = [](const PaddedCopyParameters& p) {
    C10_CUDA_CHECK(kernels::cuda::padded_copy(p, c10::cuda::getCurrentCUDAStream()));
  };
  copy_padded_by(kernel, to, from);
}

TORCH_LIBRARY_IMPL(rora, CUDA, m) {
  m.impl("copy_padded_", copy_padded_on_cuda_);
}

} // namespace
#endif

} // namespace rora::ops::detail
