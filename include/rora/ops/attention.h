#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

namespace rora::ops {

/// softmax(q·kᵀ/√head_dim)·v, where a query sees the keys of its own sequence up to its own place.
///
/// q `[batch, heads, queries, head_dim]`, k and v `[batch, kv_heads, keys, head_dim]`, heads a multiple of kv_heads: head h
/// reads k and v of head h·kv_heads/heads. The queries stand at the last of the keys' places. `sequence` is int64
/// `[batch, keys]`: 0 on padding, k ≥ 1 on the tokens of a row's k-th sequence; undefined, every row is one sequence. A
/// padding query sees itself, as a softmax over nothing is NaN.
at::Tensor attention(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const std::optional<at::Tensor>& sequence = {});

/// Which keys each query sees, bool `[batch or 1, 1, queries, keys]`: what `attention` never forms on a CPU.
at::Tensor visible_keys(const std::optional<at::Tensor>& sequence, int64_t queries, int64_t keys, at::Device device);

/// The place of each token among the tokens of its own sequence, int64 `[batch, tokens]`, 0 on padding. Padding, also
/// amid a sequence, does not count.
at::Tensor positions_in_sequence(const at::Tensor& sequence);

} // namespace rora::ops
