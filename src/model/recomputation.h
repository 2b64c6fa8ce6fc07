#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

namespace rora::detail {

/// `run(x)`, whose activations are not kept: backward runs it again, with the same random numbers, and differentiates
/// that.
at::Tensor recomputed(const std::function<at::Tensor(const at::Tensor&)>& run, const at::Tensor& x);

} // namespace rora::detail
