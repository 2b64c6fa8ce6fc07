#pragma once

#include <rora/core/gradient_rows.h>

#include <ATen/core/Tensor.h>

namespace rora::ops {

/// Turns pairs (x_i, x_{i + head_dim/2}) by each position's angles (Su et al., arXiv 2104.09864, eq 34, in the
/// half-split layout of Hugging Face checkpoints). x `[batch, heads, seq, head_dim]`; cos and sin `[batch or 1, seq,
/// head_dim]`, the second half repeating the first. x's gradient is written into `place`, whose rows are `[batch·seq,
/// heads·head_dim]`, where that is given.
at::Tensor rotary_embedding(
    const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, const GradientPlace& place = {});

} // namespace rora::ops
