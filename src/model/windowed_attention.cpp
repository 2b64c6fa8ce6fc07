#include "windowed_attention.h"

#include <rora/ops/attention.h>

#include <ATen/ATen.h>

namespace rora::detail {

at::Tensor windowed_attention(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& sequence, int64_t window,
    int64_t prefix) {
  const int64_t keys = k.size(2);
  const int64_t queries = q.size(2);
  const at::Tensor place = at::arange(keys, at::TensorOptions().dtype(at::kLong).device(q.device()));
  const at::Tensor position = sequence.defined() ? ops::positions_in_sequence(sequence) : place.unsqueeze(0);
  const at::Tensor distance = position.slice(1, keys - queries).unsqueeze(2) - position.unsqueeze(1);
  const at::Tensor near = (distance < window) | (place < prefix); // [batch or 1, queries, keys]
  const at::Tensor visible = ops::visible_keys(sequence, queries, keys, q.device()) & near.unsqueeze(1);
  return at::scaled_dot_product_attention(
      q, k, v, visible, /*dropout_p=*/0.0, /*is_causal=*/false, /*scale=*/std::nullopt,
      /*enable_gqa=*/q.size(1) != k.size(1));
}

} // namespace rora::detail
