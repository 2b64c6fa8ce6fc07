#pragma once

#include <ATen/core/Tensor.h>

namespace rora::ops {

/// silu(gate) ⊙ up, elementwise. Backward recomputes silu from `gate` instead of keeping it.
at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);

} // namespace rora::ops
