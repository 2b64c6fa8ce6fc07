#pragma once

#include <kernels/parameters.h>

#include <ATen/core/Tensor.h>

namespace rora::ops::detail {

/// `copy_padded_` by a device's kernel, as few launches as there can be; what that does not take (other dtypes, columns
/// that are dense) goes to the reference.
void copy_padded_by(void (*kernel)(const kernels::PaddedCopyParameters&), at::TensorList to, at::TensorList from);

} // namespace rora::ops::detail
