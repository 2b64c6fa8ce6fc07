#pragma once

#include <rora/core/gradient_rows.h>

#include <ATen/core/Tensor.h>
#include <c10/util/intrusive_ptr.h>

namespace rora::ops {

/// silu(gate) ⊙ up, elementwise. Backward recomputes silu from `gate` instead of keeping it. The gradients of gate and
/// up are written into the first two places of `gradient_rows`, where these are given.
at::Tensor swiglu(
    const at::Tensor& gate, const at::Tensor& up, const c10::intrusive_ptr<GradientRows>& gradient_rows = {});

} // namespace rora::ops
