#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace rora::detail {

/// `ops::attention` where a query sees the last `window` tokens of its own sequence alone, itself among them and
/// padding not counted, and the `prefix` keys in front of its row, which `sequence` holds as tokens of the row's one
/// sequence. q `[batch, heads, queries, head_dim]`, k and v `[batch, kv_heads, prefix + tokens, head_dim]`,
/// `sequence` int64 `[batch, prefix + tokens]` or undefined.
at::Tensor windowed_attention(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& sequence, int64_t window,
    int64_t prefix);

} // namespace rora::detail
