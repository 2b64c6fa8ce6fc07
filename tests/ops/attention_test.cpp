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

TEST_F(AttentionTest, WithoutAMaskIsCausal) {
  const AttentionMask mask = make_attention_mask({}, 5, 5);
  EXPECT_TRUE(mask.causal);
  EXPECT_LT(relative_error(attention(q, k, v, mask), expected(q, k, v, causal)), 1e-13);
}

TEST_F(AttentionTest, PackedSequencesDoNotSeeEachOther) {
  const AttentionMask mask = make_attention_mask(longs({{1, 1, 2, 2, 2}, {1, 2, 3, 3, 0}}), 5, 5);
  const at::Tensor mixed = attention(q, k, v, mask);
  const auto piece = [](const at::Tensor& t, int64_t row, int64_t begin, int64_t end) {
    return t.narrow(0, row, 1).slice(2, begin, end);
  };
  const auto alone = [&](int64_t row, int64_t begin, int64_t end) {
    return attention(
        piece(q, row, begin, end), piece(k, row, begin, end), piece(v, row, begin, end),
        make_attention_mask({}, end - begin, end - begin));
  };
  EXPECT_LT(relative_error(piece(mixed, 0, 0, 2), alone(0, 0, 2)), 1e-13);
  EXPECT_LT(relative_error(piece(mixed, 0, 2, 5), alone(0, 2, 5)), 1e-13);
  EXPECT_LT(relative_error(piece(mixed, 1, 2, 4), alone(1, 2, 4)), 1e-13);
  EXPECT_TRUE(at::isfinite(mixed).all().item<bool>());
}

TEST_F(AttentionTest, PaddingOnTheRightNeedsNoMask) {
  EXPECT_TRUE(make_attention_mask(longs({{1, 1, 1, 0, 0}, {1, 1, 1, 1, 1}}), 5, 5).causal);
  EXPECT_FALSE(make_attention_mask(longs({{0, 1, 1, 1, 1}, {1, 1, 1, 1, 1}}), 5, 5).causal);
  EXPECT_FALSE(make_attention_mask(longs({{1, 1, 2, 2, 2}, {1, 1, 1, 1, 1}}), 5, 5).causal);
  EXPECT_FALSE(make_attention_mask(longs({{1, 1, 0, 1, 1}, {1, 1, 1, 1, 1}}), 5, 5).causal);
}

TEST_F(AttentionTest, CachedQueriesSeeAllThatCameBefore) {
  const at::Tensor whole = attention(q, k, v, make_attention_mask({}, 5, 5));
  for (const int64_t queries : {1, 2, 4}) {
    const at::Tensor last = q.slice(2, 5 - queries);
    EXPECT_LT(relative_error(attention(last, k, v, make_attention_mask({}, queries, 5)), whole.slice(2, 5 - queries)), 1e-13);
    const at::Tensor ones = at::ones({2, 5}, at::kLong);
    EXPECT_LT(relative_error(attention(last, k, v, make_attention_mask(ones, queries, 5)), whole.slice(2, 5 - queries)), 1e-13);
  }
}

TEST_F(AttentionTest, PassesGradcheckInDouble) {
  for (const at::Tensor& rows : {at::Tensor(), longs({{1, 1, 2, 2, 2}, {0, 1, 1, 1, 1}})}) {
    const AttentionMask mask = make_attention_mask(rows, 5, 5);
    const auto function = [&](const std::vector<at::Tensor>& in) -> std::vector<at::Tensor> {
      return {attention(in[0], in[1], in[2], mask)};
    };
    EXPECT_LT(gradient_error(function, {q, k, v}), 1e-7);
  }
}

TEST_F(AttentionTest, Bfloat16IsAsNearToDoubleAsLibTorchs) {
  const auto round = [](const at::Tensor& tensor) { return tensor.to(at::kBFloat16).set_requires_grad(true); };
  const at::Tensor allowed = longs({{1, 1, 2, 2, 2}, {0, 1, 1, 1, 1}});
  for (const at::Tensor& rows : {at::Tensor(), allowed}) {
    const AttentionMask mask = make_attention_mask(rows, 5, 5);
    const at::Tensor seen = mask.allowed.defined() ? mask.allowed : causal;
    std::vector<at::Tensor> exact{q.detach().set_requires_grad(true), k.detach().set_requires_grad(true), v.detach().set_requires_grad(true)};
    std::vector<at::Tensor> ours{round(q), round(k), round(v)}, theirs{round(q), round(k), round(v)};
    const at::Tensor y = expected(exact[0], exact[1], exact[2], seen);
    const at::Tensor own = attention(ours[0], ours[1], ours[2], mask);
    const at::Tensor eager = expected(theirs[0], theirs[1], theirs[2], seen);
    for (const at::Tensor& each : {y, own, eager}) {
      (each * at::ones_like(each).cumsum(2)).sum().backward();
    }
    const auto distance = [](const at::Tensor& a, const at::Tensor& b) {
      return (a.detach().to(at::kDouble) - b.detach()).norm().item<double>();
    };
    EXPECT_LT(distance(own, y), 1.5 * distance(eager, y));
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_LT(distance(ours[i].grad(), exact[i].grad()), 1.5 * distance(theirs[i].grad(), exact[i].grad())) << i;
    }
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
