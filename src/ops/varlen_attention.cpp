#include <rora/ops/attention.h>

#include "whole_vectors.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <unordered_set>
#include <vector>

namespace rora::ops {
namespace {

/// As the flash kernels read heads: 8, 16, … numbers, dense, at multiples of 16 bytes. Zeros behind a head's own
/// numbers change no score.
at::Tensor readable_heads(const at::Tensor& x) {
  constexpr int64_t kWhole = 8;
  const int64_t lacking = (kWhole - x.size(2) % kWhole) % kWhole;
  if (lacking > 0) {
    return at::constant_pad_nd(x, {0, lacking});
  }
  return detail::in_whole_vectors(x);
}

bool flash_takes(const at::Tensor& q) {
  constexpr int64_t kMostHeadDim = 256;
  return q.is_cuda() && q.scalar_type() == at::kBFloat16 && q.size(-1) <= kMostHeadDim &&
      at::globalContext().userEnabledFlashSDP();
}

at::Tensor flash(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& boundaries, int64_t longest,
    double scale) {
  // Of a single query a sequence, the kernels take another way, which has no gradient.
  const int64_t most = std::max<int64_t>(longest, 2);
  return std::get<0>(at::_flash_attention_forward(
      q, k, v, boundaries, boundaries, most, most, /*dropout_p=*/0.0, /*is_causal=*/true, /*return_debug_mask=*/false,
      scale));
}

/// One attention a run, on any device.
at::Tensor by_runs(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& boundaries, double scale) {
  const at::Tensor places = boundaries.cpu().to(at::kLong).contiguous();
  const int64_t* begin = places.const_data_ptr<int64_t>();
  TORCH_CHECK_VALUE(
      places.numel() > 1 && begin[0] == 0 && begin[places.numel() - 1] == q.size(0),
      "the boundaries of runs rise from 0 to the number of tokens, ", q.size(0));
  std::vector<at::Tensor> runs;
  for (int64_t run = 0; run + 1 < places.numel(); ++run) {
    TORCH_CHECK_VALUE(
        begin[run] <= begin[run + 1], "the boundaries of runs rise, and do not hold ", begin[run], " before ",
        begin[run + 1]);
    const auto heads = [&](const at::Tensor& x) {
      return x.slice(0, begin[run], begin[run + 1]).transpose(0, 1).unsqueeze(0);
    };
    runs.push_back(at::scaled_dot_product_attention(
                       heads(q), heads(k), heads(v), /*attn_mask=*/{}, /*dropout_p=*/0.0, /*is_causal=*/true, scale,
                       /*enable_gqa=*/q.size(1) != k.size(1))
                       .squeeze(0)
                       .transpose(0, 1));
  }
  return at::cat(runs);
}

TORCH_LIBRARY_IMPL(rora, CompositeImplicitAutograd, m) {
  m.impl("varlen_attention", varlen_attention);
}

} // namespace

Sequences find_sequences(const at::Tensor& mask) {
  Sequences sequences{mask};
  const at::Tensor ids = mask.to(at::kLong).contiguous();
  const int64_t rows = ids.size(0), tokens = ids.size(1);
  if (ids.numel() == 0 || ids.numel() > std::numeric_limits<int32_t>::max()) {
    return sequences;
  }
  const int64_t* id = ids.const_data_ptr<int64_t>();
  std::vector<int32_t> begins;
  for (int64_t row = 0; row < rows; ++row, id += tokens) {
    std::unordered_set<int64_t> ended;
    for (int64_t place = 0; place < tokens; ++place) {
      if (place > 0 && id[place] == id[place - 1]) {
        continue;
      }
      if (id[place] > 0 && !ended.insert(id[place]).second) {
        return sequences; // it has been there before
      }
      begins.push_back(static_cast<int32_t>(row * tokens + place));
    }
  }
  begins.push_back(static_cast<int32_t>(rows * tokens));
  for (size_t run = 0; run + 1 < begins.size(); ++run) {
    sequences.longest = std::max<int64_t>(sequences.longest, begins[run + 1] - begins[run]);
  }
  sequences.boundaries = at::tensor(begins, at::kInt);
  return sequences;
}

Sequences read_sequences(const at::Tensor& mask, at::Device device) {
  Sequences sequences;
  if (device.is_cuda()) {
    sequences = find_sequences(mask.cpu());
  }
  sequences.ids = mask;
  return sequences;
}

at::Tensor varlen_attention(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& boundaries, int64_t longest) {
  TORCH_CHECK_VALUE(
      q.dim() == 3 && k.dim() == 3 && v.sizes() == k.sizes() && q.size(0) == k.size(0) && q.size(2) == k.size(2) &&
          k.size(1) > 0 && q.size(1) % k.size(1) == 0 && boundaries.dim() == 1 && boundaries.scalar_type() == at::kInt,
      "attention within runs takes q [tokens, heads, head_dim], k and v [tokens, kv_heads, head_dim], kv_heads a "
      "divisor "
      "of heads, and int32 boundaries [runs + 1], not ",
      q.sizes(), ", ", k.sizes(), ", ", v.sizes(), " and ", boundaries.sizes(), " in ", boundaries.scalar_type());
  if (q.is_meta()) {
    return at::empty_like(q);
  }
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(2)));
  const at::Tensor own_q = readable_heads(q), own_k = readable_heads(k), own_v = readable_heads(v);
  const at::Tensor out = flash_takes(own_q) ? flash(own_q, own_k, own_v, boundaries, longest, scale)
                                            : by_runs(own_q, own_k, own_v, boundaries, scale);
  return out.slice(2, 0, q.size(2));
}

at::Tensor attention_within(
    const Sequences& sequences, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Window& window) {
  const bool hides = window.size > 0 && window.size < k.size(2) - window.prefix;
  if (hides || !sequences.boundaries.defined() || q.size(2) != k.size(2) || !flash_takes(q)) {
    return attention(q, k, v, sequences.ids, window);
  }
  const auto tokens = [](const at::Tensor& x) { return x.transpose(1, 2).reshape({-1, x.size(1), x.size(3)}); };
  const at::Tensor out = varlen_attention(tokens(q), tokens(k), tokens(v), sequences.boundaries, sequences.longest);
  return out.view({q.size(0), q.size(2), q.size(1), q.size(3)}).transpose(1, 2);
}

} // namespace rora::ops
