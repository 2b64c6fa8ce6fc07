#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

namespace rora::ops {

/// How far back a query sees.
struct Window {
  int64_t size = 0; ///< the last tokens of its sequence that it sees, itself among them and padding not counted; 0: all
  int64_t prefix = 0; ///< keys in front of every row that its queries see however far away
};

/// softmax(q·kᵀ/√head_dim)·v, where a query sees the keys of its own sequence up to its own place.
///
/// q `[batch, heads, queries, head_dim]`, k and v `[batch, kv_heads, keys, head_dim]`, heads a multiple of kv_heads:
/// head h reads k and v of head h·kv_heads/heads. The queries stand at the last of the keys' places. `sequence` is
/// int64 `[batch, keys]`: 0 on padding, k ≥ 1 on the tokens of a row's k-th sequence; undefined, every row is one
/// sequence. A padding query sees itself, as a softmax over nothing is NaN. The keys of a prefix are tokens of the
/// row's one sequence.
at::Tensor attention(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const std::optional<at::Tensor>& sequence = {},
    const Window& window = {});

/// The sequences of a batch, read once for all layers of a forward pass.
struct Sequences {
  at::Tensor ids; ///< `[batch, keys]` as `attention` takes it; undefined: every row is one sequence
  /// int32 `[runs + 1]`: where runs of one id, padding's too, begin in batch·tokens, and batch·tokens. Undefined where
  /// ids alone say what a query sees.
  at::Tensor boundaries{};
  int64_t longest = 0; ///< tokens of the longest run
};

/// The sequences of `mask` int64 `[batch, tokens]` on the CPU, with boundaries unless a sequence goes on behind another
/// or behind padding.
Sequences find_sequences(const at::Tensor& mask);

/// The sequences of `mask` for tokens on `device`, with boundaries for a GPU if there are any. Those are found, and
/// stay, on the CPU: a mask that lies elsewhere is fetched, which waits for the GPU.
Sequences read_sequences(const at::Tensor& mask, at::Device device);

/// `attention` of the sequences. Where they have boundaries, LibTorch's flash kernels run over bfloat16 on a GPU
/// without a mask in memory; what they give padding is finite. Their gradients are the same in every run only under
/// `at::Context::setDeterministicAlgorithms` that does more than warn. A window that hides keys is a mask in memory on
/// a GPU.
at::Tensor attention_within(
    const Sequences& sequences, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
    const Window& window = {});

/// Causal attention within runs of tokens: q `[tokens, heads, head_dim]`, k and v `[tokens, kv_heads, head_dim]`,
/// boundaries int32 `[runs + 1]` and `longest` as `Sequences` has them. Flash kernels as above, else one attention a
/// run.
at::Tensor varlen_attention(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& boundaries, int64_t longest);

/// Which keys each query sees, bool `[batch or 1, 1, queries, keys]`: what `attention` never forms on a CPU
/// and `attention_within` not where there are boundaries.
at::Tensor visible_keys(
    const std::optional<at::Tensor>& sequence, int64_t queries, int64_t keys, at::Device device,
    const Window& window = {});

/// The place of each token among the tokens of its own sequence, int64 `[batch, tokens]`, 0 on padding. Padding, also
/// amid a sequence, does not count.
at::Tensor positions_in_sequence(const at::Tensor& sequence);

} // namespace rora::ops
