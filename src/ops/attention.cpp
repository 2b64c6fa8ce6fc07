#include <rora/ops/attention.h>

#include <ATen/ATen.h>

#include <cmath>
#include <limits>
#include <vector>

namespace rora::ops {
namespace {

/// Whether every row is one sequence from its first column, with padding after it or none.
bool padded_on_the_right_only(const at::Tensor& attention_mask) {
  const at::Tensor ones = attention_mask == 1;
  const at::Tensor known = ones | (attention_mask == 0);
  const at::Tensor falls_only = attention_mask.slice(1, 1) <= attention_mask.slice(1, 0, -1);
  return (known.all() & falls_only.all() & ones.select(1, 0).all()).item<bool>();
}

/// Up to how many keys the plain products are chosen: their scores are all kept.
constexpr int64_t kMostKeysOfProducts = 512;

/// softmax(q·kᵀ/√head_dim)·v as two products, in which the heads that share keys are rows of one matrix.
at::Tensor attention_by_products(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const AttentionMask& mask) {
  const int64_t queries = q.size(2);
  const int64_t keys = k.size(2);
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(3)));
  const std::vector<int64_t> by_head{q.size(0), k.size(1), -1, queries, keys};
  const std::vector<int64_t> by_row{q.size(0), k.size(1), -1, keys};
  const at::Tensor rows = (q * scale).reshape({q.size(0), k.size(1), -1, q.size(3)});
  at::Tensor scores = rows.matmul(k.transpose(2, 3)).view(by_head);
  if (mask.allowed.defined() || mask.causal) {
    const at::Tensor hidden = mask.allowed.defined()
        ? mask.allowed.logical_not().unsqueeze(2)
        : at::ones({queries, keys}, q.options().dtype(at::kBool)).triu(1);
    scores.masked_fill_(hidden, -std::numeric_limits<double>::infinity());
  }
  return scores.softmax(-1).view(by_row).matmul(v).view(q.sizes());
}

} // namespace

AttentionMask make_attention_mask(const at::Tensor& attention_mask, int64_t queries, int64_t keys) {
  AttentionMask mask;
  const bool whole = queries == keys;
  if (!attention_mask.defined() || padded_on_the_right_only(attention_mask)) {
    if (whole || (queries == 1 && !attention_mask.defined())) {
      mask.causal = whole;
      return mask;
    }
  }
  const auto options = at::TensorOptions().dtype(at::kLong).device(
      attention_mask.defined() ? attention_mask.device() : at::Device(at::kCPU));
  const at::Tensor key_place = at::arange(keys, options);
  const at::Tensor query_place = key_place.slice(0, keys - queries).unsqueeze(1);
  at::Tensor allowed = (key_place <= query_place).unsqueeze(0);
  if (attention_mask.defined()) {
    const at::Tensor query_sequence = attention_mask.slice(1, keys - queries).unsqueeze(2);
    const at::Tensor key_sequence = attention_mask.unsqueeze(1);
    allowed = (allowed & (query_sequence == key_sequence) & (key_sequence > 0)) | (key_place == query_place);
  }
  mask.causal = false;
  mask.allowed = allowed.unsqueeze(1);
  return mask;
}

at::Tensor positions_in_sequence(const at::Tensor& attention_mask) {
  const at::Tensor place = (attention_mask > 0).cumsum(1) - 1;
  const at::Tensor latest = std::get<0>(attention_mask.cummax(1));
  at::Tensor begins = at::zeros_like(attention_mask);
  begins.slice(1, 1).copy_(attention_mask.slice(1, 1) > latest.slice(1, 0, -1));
  const at::Tensor start = std::get<0>((begins * place).cummax(1));
  return (place - start).masked_fill_(attention_mask == 0, 0);
}

at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const AttentionMask& mask) {
  const auto allowed = mask.allowed.defined() ? std::optional<at::Tensor>(mask.allowed) : std::nullopt;
  if (q.size(2) == 1) {
    // One query a head, in generation: the heads that share keys are rows of one product. In bfloat16 that is six times
    // as fast on a CPU as going through the heads one by one.
    const at::Tensor grouped = q.reshape({q.size(0), k.size(1), -1, q.size(3)});
    const at::Tensor mixed = at::scaled_dot_product_attention(grouped, k, v, allowed);
    return mixed.reshape(q.sizes());
  }
  if (attention_keeps_weights(q.device(), q.scalar_type(), k.size(2))) {
    return attention_by_products(q, k, v, mask);
  }
  return at::scaled_dot_product_attention(
      q,
      k,
      v,
      allowed,
      /*dropout_p=*/0.0,
      mask.causal,
      /*scale=*/std::nullopt,
      /*enable_gqa=*/q.size(1) != k.size(1));
}

bool attention_keeps_weights(at::Device device, at::ScalarType dtype, int64_t keys) {
  // In bfloat16 on a CPU, forward and backward of SmolLM2-135M's attention took 25.5 ms at 4×256 tokens by LibTorch's
  // kernel and 12.1 ms by products (38.3 and 12.8 at 16×128); in float32 16.9 and 19.0.
  return device.is_cpu() && dtype == at::kBFloat16 && keys <= kMostKeysOfProducts;
}

} // namespace rora::ops
