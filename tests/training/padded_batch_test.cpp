#include "step_graphs_support.h"

#include <training/padded_batch.h>

#include <rora/ops/cross_entropy.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <vector>

namespace rora {
namespace {

using rora::testing::batch_of;

TEST(PaddedCount, IsOneOfAFewCountsAndNotMuchMore) {
  std::set<int64_t> counts;
  for (int64_t count = 1; count <= 20000; ++count) {
    const int64_t padded = detail::padded_count(count, 64);
    ASSERT_GE(padded, count);
    ASSERT_LE(padded - count, std::max<int64_t>(63, count / 4)) << count;
    ASSERT_EQ(detail::padded_count(padded, 64), padded) << count;
    ASSERT_EQ(padded % 64, 0);
    counts.insert(padded);
  }
  EXPECT_LE(counts.size(), 40U);
  EXPECT_EQ(detail::padded_count(0, 64), 64);
  EXPECT_EQ(detail::padded_count(4 * 2047, 64), 8192);
}

TEST(PaddedRows, AreWholeMultiplesWithoutAnythingNewToLearn) {
  const Batch batch = batch_of({}, 1, 2, 40);
  ASSERT_FALSE(batch.attention_mask.defined());
  const Batch padded = detail::padded_rows(batch);
  for (const at::Tensor& each : {padded.input_ids, padded.labels, padded.attention_mask}) {
    EXPECT_EQ(each.sizes(), (std::vector<int64_t>{2, 64}));
  }
  EXPECT_TRUE(at::equal(padded.input_ids.slice(1, 0, 40), batch.input_ids));
  EXPECT_TRUE(at::equal(padded.labels.slice(1, 0, 40), batch.labels));
  EXPECT_TRUE((padded.labels.slice(1, 40) == kIgnoreIndex).all().item<bool>());
  EXPECT_TRUE((padded.attention_mask.slice(1, 0, 40) == 1).all().item<bool>());
  EXPECT_TRUE((padded.attention_mask.slice(1, 40) == 0).all().item<bool>());
  EXPECT_EQ(padded.labelled_tokens, batch.labelled_tokens);
}

TEST(PaddedRows, ThatAreWholeStayAsTheyAre) {
  const Batch batch = batch_of({}, 1, 2, 64);
  const Batch padded = detail::padded_rows(batch);
  EXPECT_TRUE(padded.input_ids.is_same(batch.input_ids));
  EXPECT_FALSE(padded.attention_mask.defined());
}

TEST(PaddedCounts, OfABatchWhoseTokensAreAllComputedStayAsTheyAre) {
  PreparedLoss prepared;
  prepared.input.input_ids = at::zeros({2, 6}, at::kLong);
  prepared.targets = at::tensor({5, 6, 7, 8, 9, -100, 5, 6, 7, 8, 9, -100}, at::kLong);
  const PreparedLoss padded = detail::padded_counts(prepared);
  EXPECT_FALSE(padded.input.chosen.defined());
  EXPECT_TRUE(at::equal(padded.targets, prepared.targets));
}

TEST(PaddedCounts, OfBoundariesLeaveAttentionAsItIs) {
  at::manual_seed(2);
  const at::Tensor mask = at::tensor({1, 1, 1, 2, 2, 0, 1, 2, 2, 2, 3, 3}, at::kLong).view({2, 6});
  PreparedLoss prepared;
  prepared.input.input_ids = at::zeros({2, 6}, at::kLong);
  prepared.input.sequences = ops::find_sequences(mask);
  prepared.input.chosen = at::tensor({3, 4, 9}, at::kLong);
  prepared.targets = at::tensor({5, 6, 7}, at::kLong);
  const PreparedLoss padded = detail::padded_counts(prepared);
  const ops::Sequences &before = prepared.input.sequences, &after = padded.input.sequences;
  ASSERT_EQ(before.boundaries.size(0), 7);
  ASSERT_EQ(after.boundaries.size(0), 32);
  EXPECT_EQ(after.longest, 6);
  EXPECT_EQ(after.boundaries.scalar_type(), at::kInt);
  EXPECT_TRUE((after.boundaries.slice(0, 7) == 12).all().item<bool>());
  std::vector<at::Tensor> results;
  for (const ops::Sequences& sequences : {before, after}) {
    at::manual_seed(3);
    std::vector<at::Tensor> inputs;
    for (const int64_t heads : {4, 2, 2}) {
      inputs.push_back(at::randn({12, heads, 8}).set_requires_grad(true));
    }
    const at::Tensor y =
        ops::varlen_attention(inputs[0], inputs[1], inputs[2], sequences.boundaries, sequences.longest);
    y.backward(at::arange(y.numel(), at::kFloat).view(y.sizes()));
    results.insert(results.end(), {y.detach(), inputs[0].grad(), inputs[1].grad(), inputs[2].grad()});
  }
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_TRUE(at::equal(results[i], results[i + 4])) << i;
  }
  EXPECT_EQ(padded.targets.size(0), 64);
  EXPECT_TRUE((padded.targets.slice(0, 3) == kIgnoreIndex).all().item<bool>());
  EXPECT_TRUE((padded.input.chosen.slice(0, 3) == 0).all().item<bool>());
}

} // namespace
} // namespace rora
