#include <rora/ops/attention.h>
#include <rora/core/operation.h>

#include "dtype.h"
#include "launch.h"
#include "whole_vectors.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

namespace rora::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Sequence = std::optional<at::Tensor>;

double score_scale(const at::Tensor& q) {
  return 1.0 / std::sqrt(static_cast<double>(q.size(3)));
}

/// The weights `[batch, kv_heads, heads/kv_heads·queries, keys]` and log Σ e^score of each row, in the wide type: the
/// heads that share keys are rows of one product.
std::tuple<at::Tensor, at::Tensor> weights_reference(
    const at::Tensor& q, const at::Tensor& k, const Sequence& sequence, const Window& window) {
  const at::Tensor rows = q.reshape({q.size(0), k.size(1), -1, q.size(3)});
  const at::Tensor scores = rows.matmul(k.transpose(2, 3)).mul(score_scale(q));
  const at::Tensor hidden = visible_keys(sequence, q.size(2), k.size(2), q.device(), window).logical_not();
  const at::Tensor masked = scores.view({q.size(0), k.size(1), -1, q.size(2), k.size(2)})
                                .masked_fill(hidden.unsqueeze(2), -std::numeric_limits<double>::infinity())
                                .view(scores.sizes());
  const at::Tensor normaliser = masked.logsumexp(-1, /*keepdim=*/true);
  return {(masked - normaliser).exp(), normaliser};
}

std::tuple<at::Tensor, at::Tensor> forward_reference(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Sequence& sequence, int64_t window,
    int64_t prefix) {
  const auto wide = detail::wide_type(q.scalar_type());
  const auto [weights, normaliser] = weights_reference(q.to(wide), k.to(wide), sequence, {window, prefix});
  return {
      weights.matmul(v.to(wide)).view(q.sizes()).to(q.scalar_type()),
      normaliser.view({q.size(0), q.size(1), q.size(2)})};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward_reference(
    const at::Tensor& dout, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& out,
    const at::Tensor& normaliser, const Sequence& sequence, int64_t window, int64_t prefix) {
  const auto wide = detail::wide_type(q.scalar_type());
  const auto by_key = [&](const at::Tensor& t) { return t.to(wide).reshape({q.size(0), k.size(1), -1, q.size(3)}); };
  const at::Tensor weights = std::get<0>(weights_reference(q.to(wide), k.to(wide), sequence, {window, prefix}));
  const at::Tensor rows = by_key(dout);
  const at::Tensor delta = (rows * by_key(out)).sum(-1, /*keepdim=*/true);
  const at::Tensor gradient = (rows.matmul(v.to(wide).transpose(2, 3)) - delta).mul(weights).mul(score_scale(q));
  return {
      gradient.matmul(k.to(wide)).view(q.sizes()).to(q.scalar_type()),
      gradient.transpose(2, 3).matmul(by_key(q)).to(k.scalar_type()),
      weights.transpose(2, 3).matmul(rows).to(v.scalar_type())};
}

/// As the kernels read it: the last dimension dense, and whole words of bfloat16 where they are read in pairs.
at::Tensor readable(const at::Tensor& t) {
  const bool pairs = t.scalar_type() != at::kBFloat16 ||
      (t.stride(0) % 2 == 0 && t.stride(1) % 2 == 0 && t.stride(2) % 2 == 0 && t.storage_offset() % 2 == 0);
  return t.stride(3) == 1 && pairs ? t : t.contiguous();
}

kernels::AttentionParameters::Tensor kernel_tensor(const at::Tensor& t) {
  return {t.data_ptr(), {t.stride(0), t.stride(1), t.stride(2)}};
}

/// Laid out as projections read and leave heads: `[batch, tokens, heads, head_dim]`, turned.
at::Tensor empty_heads(const at::Tensor& like) {
  return at::empty({like.size(0), like.size(2), like.size(1), like.size(3)}, like.options()).transpose(1, 2);
}

bool runs_on_kernel(const at::Tensor& q) {
  return q.is_cpu() && detail::has_kernel(q) && q.size(3) % 2 == 0;
}

/// Where a window counts each key, int64 `[batch, keys]`: real tokens up to it, or its place where all are real.
at::Tensor positions_in_row(const at::Tensor& sequence) {
  return (sequence > 0).cumsum(1);
}

/// What the kernels read of a row's tokens, dense.
struct RowTokens {
  RowTokens(const Sequence& ids, const Window& window) {
    if (ids && ids->defined()) {
      sequence = ids->to(at::kLong).contiguous();
      position = window.size > 0 ? positions_in_row(sequence) : at::Tensor();
    }
  }
  at::Tensor sequence, position; ///< undefined: each row is one sequence; keys count by their places
};

kernels::AttentionParameters describe(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const RowTokens& tokens, const Window& window) {
  kernels::AttentionParameters p;
  p.type = detail::kernel_type(q);
  p.batch = q.size(0);
  p.heads = q.size(1);
  p.kv_heads = k.size(1);
  p.queries = q.size(2);
  p.keys = k.size(2);
  p.head_dim = q.size(3);
  p.scale = score_scale(q);
  p.sequence = tokens.sequence.defined() ? tokens.sequence.const_data_ptr<int64_t>() : nullptr;
  p.position = tokens.position.defined() ? tokens.position.const_data_ptr<int64_t>() : nullptr;
  p.window = window.size;
  p.prefix = window.prefix;
  p.q = kernel_tensor(q);
  p.k = kernel_tensor(k);
  p.v = kernel_tensor(v);
  return p;
}

std::tuple<at::Tensor, at::Tensor> forward_cpu(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Sequence& sequence, int64_t window,
    int64_t prefix) {
  if (!runs_on_kernel(q)) {
    return forward_reference(q, k, v, sequence, window, prefix);
  }
  const at::Tensor own_q = readable(q), own_k = readable(k), own_v = readable(v);
  const RowTokens tokens(sequence, {window, prefix});
  at::Tensor out = empty_heads(q);
  at::Tensor normaliser =
      at::empty({q.size(0), q.size(1), q.size(2)}, q.options().dtype(detail::wide_type(q.scalar_type())));
  auto p = describe(own_q, own_k, own_v, tokens, {window, prefix});
  p.out = kernel_tensor(out);
  p.normaliser = normaliser.data_ptr();
  detail::launch_on_cpu(&kernels::Kernels::attention, p, p.batch * p.kv_heads, p.queries * p.keys);
  return {out, normaliser};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward_cpu(
    const at::Tensor& dout, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& out,
    const at::Tensor& normaliser, const Sequence& sequence, int64_t window, int64_t prefix) {
  if (!runs_on_kernel(q)) {
    return backward_reference(dout, q, k, v, out, normaliser, sequence, window, prefix);
  }
  const at::Tensor own_q = readable(q), own_k = readable(k), own_v = readable(v);
  const RowTokens tokens(sequence, {window, prefix});
  const at::Tensor own_out = readable(out), own_dout = readable(dout), own_normaliser = normaliser.contiguous();
  at::Tensor dq = empty_heads(q), dk = empty_heads(k), dv = empty_heads(v);
  auto p = describe(own_q, own_k, own_v, tokens, {window, prefix});
  p.out = kernel_tensor(own_out);
  p.dout = kernel_tensor(own_dout);
  p.normaliser = own_normaliser.data_ptr();
  p.dq = kernel_tensor(dq);
  p.dk = kernel_tensor(dk);
  p.dv = kernel_tensor(dv);
  detail::launch_on_cpu(&kernels::Kernels::attention_backward, p, p.batch * p.kv_heads, p.queries * p.keys);
  return {dq, dk, dv};
}

struct AttentionFunction : torch::autograd::Function<AttentionFunction> {
  static at::Tensor forward(
      AutogradContext* ctx, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Sequence& sequence,
      int64_t window, int64_t prefix) {
    auto [out, normaliser] =
        detail::call_operation<forward_reference>("rora::attention_forward", q, k, v, sequence, window, prefix);
    ctx->saved_data["window"] = window;
    ctx->saved_data["prefix"] = prefix;
    ctx->save_for_backward({q, k, v, out, normaliser, sequence.value_or(at::Tensor())});
    return out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    detail::refuse_second_derivative("rora::attention");
    const auto saved = ctx->get_saved_variables();
    const Sequence sequence = saved[5].defined() ? Sequence(saved[5]) : std::nullopt;
    auto [dq, dk, dv] = detail::call_operation<backward_reference>(
        "rora::attention_backward", gradients[0], saved[0], saved[1], saved[2], saved[3], saved[4], sequence,
        ctx->saved_data["window"].toInt(), ctx->saved_data["prefix"].toInt());
    return {dq, dk, dv, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

TORCH_LIBRARY_IMPL(rora, CompositeExplicitAutograd, m) {
  m.impl("attention_forward", forward_reference);
  m.impl("attention_backward", backward_reference);
}
TORCH_LIBRARY_IMPL(rora, CPU, m) {
  m.impl("attention_forward", forward_cpu);
  m.impl("attention_backward", backward_cpu);
}
TORCH_LIBRARY_IMPL(rora, CompositeImplicitAutograd, m) {
  m.impl("attention", [](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Sequence& sequence) {
    return attention(q, k, v, sequence);
  });
}

} // namespace

at::Tensor visible_keys(
    const Sequence& sequence, int64_t queries, int64_t keys, at::Device device, const Window& window) {
  const at::Tensor key_place = at::arange(keys, at::TensorOptions().dtype(at::kLong).device(device));
  const at::Tensor query_place = key_place.slice(0, keys - queries).unsqueeze(1);
  at::Tensor visible = (key_place <= query_place).unsqueeze(0);
  if (sequence && sequence->defined()) {
    const at::Tensor of_query = sequence->slice(1, keys - queries).unsqueeze(2);
    const at::Tensor of_key = sequence->unsqueeze(1);
    visible = (visible & (of_query == of_key) & (of_key > 0)) | (key_place == query_place);
  }
  if (window.size > 0) {
    const bool whole_rows = !sequence || !sequence->defined();
    const at::Tensor position = whole_rows ? key_place.unsqueeze(0) : positions_in_row(*sequence);
    const at::Tensor distance = position.slice(1, keys - queries).unsqueeze(2) - position.unsqueeze(1);
    visible = visible & ((distance < window.size) | (key_place < window.prefix));
  }
  return visible.unsqueeze(1);
}

at::Tensor positions_in_sequence(const at::Tensor& sequence) {
  const at::Tensor place = (sequence > 0).cumsum(1) - 1;
  const at::Tensor latest = std::get<0>(sequence.cummax(1));
  at::Tensor begins = at::zeros_like(sequence);
  begins.slice(1, 1).copy_(sequence.slice(1, 1) > latest.slice(1, 0, -1));
  const at::Tensor start = std::get<0>((begins * place).cummax(1));
  return (place - start).masked_fill_(sequence == 0, 0);
}

at::Tensor attention(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Sequence& sequence, const Window& asked) {
  TORCH_CHECK_VALUE(
      q.dim() == 4 && k.dim() == 4 && v.sizes() == k.sizes() && q.size(0) == k.size(0) && q.size(3) == k.size(3) &&
          k.size(1) > 0 && q.size(1) % k.size(1) == 0 && q.size(2) <= k.size(2),
      "attention takes q [batch, heads, queries, head_dim] and k and v [batch, kv_heads, keys, head_dim], kv_heads a "
      "divisor of heads and no more queries than keys, not ",
      q.sizes(), ", ", k.sizes(), " and ", v.sizes());
  if (sequence && sequence->defined()) {
    TORCH_CHECK_VALUE(
        sequence->dim() == 2 && sequence->size(0) == k.size(0) && sequence->size(1) == k.size(2), "the sequences of k ",
        k.sizes(), " are [batch, keys], not ", sequence->sizes());
  }
  const Window window = asked.size < k.size(2) - asked.prefix ? asked : Window(); // it hides keys
  const bool sees_all = (!sequence || !sequence->defined()) && window.size == 0;
  // A GPU's kernels for attention end in "misaligned address" where they are given rows that lie otherwise.
  const auto own = [](const at::Tensor& x) { return x.is_cuda() ? detail::in_whole_vectors(x) : x; };
  if (q.size(2) == 1) {
    // One query a head, in generation: the heads that share keys are rows of one product. In bfloat16 that is six times
    // as fast on a CPU as going through the heads one by one.
    const auto visible = sees_all ? Sequence() : Sequence(visible_keys(sequence, 1, k.size(2), q.device(), window));
    const at::Tensor grouped = q.reshape({q.size(0), k.size(1), -1, q.size(3)});
    return at::scaled_dot_product_attention(own(grouped), own(k), own(v), visible).reshape(q.sizes());
  }
  if (runs_on_kernel(q)) {
    return AttentionFunction::apply(q, k, v, sequence, window.size, window.prefix);
  }
  const bool causal = sees_all && q.size(2) == k.size(2);
  const auto visible = causal ? Sequence() : Sequence(visible_keys(sequence, q.size(2), k.size(2), q.device(), window));
  return at::scaled_dot_product_attention(
      own(q), own(k), own(v), visible, /*dropout_p=*/0.0, causal, /*scale=*/std::nullopt,
      /*enable_gqa=*/q.size(1) != k.size(1));
}

} // namespace rora::ops
