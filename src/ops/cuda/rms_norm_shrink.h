#pragma once

#include <kernels/parameters.h>

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace rora::ops::detail {

/// A device's launcher, for the device of the tensors and its current stream.
struct RMSNormShrinkKernel {
  int64_t (*most_shared_bytes)(); ///< that a block may have
  void (*run)(const kernels::RMSNormShrinkParameters&, int64_t groups);
};

/// By the kernel where its parameters fit and it reads less than two do, else by the reference.
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> rms_norm_shrink_forward(
    const RMSNormShrinkKernel& kernel, const at::Tensor& x, const std::optional<at::Tensor>& added,
    const at::Tensor& weight, double eps, const at::Tensor& a, double scale);

} // namespace rora::ops::detail
