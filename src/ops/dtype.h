#pragma once

#include <ATen/core/Tensor.h>

namespace rora::ops::detail {

/// What the sums over elements of this dtype are formed in.
inline at::ScalarType wide_type(at::ScalarType dtype) {
  return dtype == at::kDouble ? at::kDouble : at::kFloat;
}

} // namespace rora::ops::detail
