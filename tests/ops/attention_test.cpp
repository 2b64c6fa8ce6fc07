#include "support/gradcheck.h"

#include <rora/ops/attention.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace rora::ops {
namespace {

using rora::testing::gradient_error;
using rora::testing::relative_error;

at::Tensor longs(std::vector<std::vector<int64_t>> rows) {
  std::vector<at::Tensor> tensors;
  for (const auto& row : rows) {
    tensors.push_back(at::tensor(row, at::kLong));
  }
  return at::stack(tensors);
}

/// Attention written out: kv heads repeated, everything masked by hand.
at::Tensor expected(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& allowed) {
  const int64_t copies = q.size(1) / k.size(1);
  const at::Tensor scores = q.matmul(k.repeat_interleave(copies, 1).transpose(2, 3)) / std::sqrt(q.size(3));
  const at::Tensor masked = scores.masked_fill(allowed.logical_not(), -std::numeric_limits<double>::infinity());
  return masked.softmax(-1).matmul(v.repeat_interleave(copies, 1));
}

class AttentionTest : public ::testing::Test {
 protected:
  AttentionTest() {
    at::manual_seed(8);
    q = at::randn({2, 4, 5, 6}, at::kDouble);
    k = at::randn({2, 2, 5, 6}, at::kDouble);
    v = at::randn({2, 2, 5, 6}, at::kDouble);
    causal = at::ones({5, 5}, at::kBool).tril();
  }
  at::Tensor q, k, v, causal;
};

TEST_F(AttentionTest, WithoutSequencesIsCausal) {
  EXPECT_LT(relative_error(attention(q, k, v), expected(q, k, v, causal)), 1e-13);
}

TEST_F(AttentionTest, PackedSequencesDoNotSeeEachOther) {
  const at::Tensor mixed = attention(q, k, v, longs({{1, 1, 2, 2, 2}, {1, 2, 3, 3, 0}}));
  const auto piece = [](const at::Tensor& t, int64_t row, int64_t begin, int64_t end) {
    return t.narrow(0, row, 1).slice(2, begin, end);
  };
  const auto alone = [&](int64_t row, int64_t begin, int64_t end) {
    return attention(piece(q, row, begin, end), piece(k, row, begin, end), piece(v, row, begin, end));
  };
  EXPECT_LT(relative_error(piece(mixed, 0, 0, 2), alone(0, 0, 2)), 1e-13);
  EXPECT_LT(relative_error(piece(mixed, 0, 2, 5), alone(0, 2, 5)), 1e-13);
  EXPECT_LT(relative_error(piece(mixed, 1, 2, 4), alone(1, 2, 4)), 1e-13);
  EXPECT_TRUE(at::isfinite(mixed).all().item<bool>());
}

TEST_F(AttentionTest, CachedQueriesSeeAllThatCameBefore) {
  const at::Tensor whole = attention(q, k, v);
  for (const int64_t queries : {1, 2, 4}) {
    const at::Tensor last = q.slice(2, 5 - queries);
    EXPECT_LT(relative_error(attention(last, k, v), whole.slice(2, 5 - queries)), 1e-13);
    const at::Tensor ones = at::ones({2, 5}, at::kLong);
    EXPECT_LT(relative_error(attention(last, k, v, ones), whole.slice(2, 5 - queries)), 1e-13);
  }
}

TEST_F(AttentionTest, PassesGradcheckInDouble) {
  for (const at::Tensor& sequence : {at::Tensor(), longs({{1, 1, 2, 2, 2}, {0, 1, 1, 1, 1}})}) {
    const auto function = [&](const std::vector<at::Tensor>& in) -> std::vector<at::Tensor> {
      return {attention(in[0], in[1], in[2], sequence)};
    };
    EXPECT_LT(gradient_error(function, {q, k, v}), 1e-7);
  }
}

TEST(PositionsInSequence, CountEachSequenceFromZero) {
  const at::Tensor mask = longs({{1, 1, 1, 2, 2, 0}, {0, 0, 1, 1, 1, 1}, {1, 2, 3, 3, 0, 0}, {0, 1, 0, 1, 2, 2}});
  EXPECT_TRUE(at::equal(
      positions_in_sequence(mask),
      longs({{0, 1, 2, 0, 1, 0}, {0, 0, 0, 1, 2, 3}, {0, 0, 0, 1, 0, 0}, {0, 0, 0, 1, 0, 1}})));
}

} // namespace
} // namespace rora::ops
