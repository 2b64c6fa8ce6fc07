#pragma once

#include <ATen/ATen.h>

namespace rora::detail {

/// Whether no element is NaN or infinite. One pass as a rule: such an element shows in the sum. Finite ones may
/// overflow it: then each is looked at.
inline bool all_finite(const at::Tensor& tensor) {
  const auto wide = tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return at::isfinite(tensor.sum(wide)).item<bool>() || at::isfinite(tensor).all().item<bool>();
}

} // namespace rora::detail
