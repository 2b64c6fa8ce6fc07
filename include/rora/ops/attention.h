#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace rora::ops {

/// Which keys each query sees.
struct AttentionMask {
  /// The i-th of the last queries sees the keys up to its own place, and nothing else is asked: `allowed` is undefined.
  bool causal = true;
  /// Bool `[batch, 1, queries, keys]`: true where a query sees a key.
  at::Tensor allowed;
};

/// The causal mask of rows that hold several sequences or padding. `attention_mask` is int64 `[batch, keys]`: 0 on padding,
/// k ≥ 1 on the tokens of a row's k-th sequence, undefined where every row is one sequence; the last `queries` of its
/// columns are the queries. Padding at the right end alone needs no mask: no real token sees what follows it. A padding
/// query sees itself, as a softmax over nothing is NaN.
AttentionMask make_attention_mask(const at::Tensor& attention_mask, int64_t queries, int64_t keys);

/// The place of each token among the tokens of its own sequence, int64 `[batch, tokens]`, 0 on padding. Padding, also
/// amid a sequence, does not count.
at::Tensor positions_in_sequence(const at::Tensor& attention_mask);

/// softmax(q·kᵀ/√head_dim)·v over the keys that `mask` allows. q `[batch, heads, queries, head_dim]`, k and v
/// `[batch, kv_heads, keys, head_dim]`, heads a multiple of kv_heads: head h reads k and v of head h·kv_heads/heads.
at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const AttentionMask& mask);

/// Whether `attention` of more than one query keeps its weights `[batch, heads, queries, keys]` for backward.
bool attention_keeps_weights(at::Device device, at::ScalarType dtype, int64_t keys);

} // namespace rora::ops
