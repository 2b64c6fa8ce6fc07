#include "padded_batch.h"

#include <rora/ops/cross_entropy.h>

#include <ATen/ATen.h>

#include <algorithm>

namespace rora::detail {
namespace {

constexpr int64_t kTokensOfRow = 64;
constexpr int64_t kFewestChosen = 64;
constexpr int64_t kFewestBoundaries = 32;

at::Tensor padded_behind(const at::Tensor& x, int64_t size, int64_t value) {
  return at::constant_pad_nd(x, {0, size - x.size(-1)}, value);
}

} // namespace

Batch padded_rows(Batch batch) {
  const int64_t seq = batch.input_ids.size(1);
  const int64_t whole = (seq + kTokensOfRow - 1) / kTokensOfRow * kTokensOfRow;
  if (whole == seq) {
    return batch;
  }
  const at::Tensor mask = batch.attention_mask.defined() ? batch.attention_mask : at::ones_like(batch.input_ids);
  batch.attention_mask = padded_behind(mask, whole, 0);
  batch.input_ids = padded_behind(batch.input_ids, whole, 0);
  batch.labels = padded_behind(batch.labels, whole, kIgnoreIndex);
  return batch;
}

int64_t padded_count(int64_t count, int64_t least) {
  int64_t power = 1;
  while (2 * power <= count) {
    power *= 2;
  }
  const int64_t step = std::max(least, power / 4);
  return std::max(least, (count + step - 1) / step * step);
}

PreparedLoss padded_counts(PreparedLoss prepared) {
  if (prepared.input.chosen.defined()) {
    const int64_t chosen = padded_count(prepared.targets.size(0), kFewestChosen);
    prepared.input.chosen = padded_behind(prepared.input.chosen, chosen, 0);
    prepared.targets = padded_behind(prepared.targets, chosen, kIgnoreIndex);
  }
  ops::Sequences& sequences = prepared.input.sequences;
  if (sequences.boundaries.defined()) {
    const int64_t boundaries = padded_count(sequences.boundaries.size(0), kFewestBoundaries);
    sequences.boundaries = padded_behind(sequences.boundaries, boundaries, prepared.input.input_ids.numel());
    sequences.longest = prepared.input.input_ids.size(1);
  }
  return prepared;
}

} // namespace rora::detail
