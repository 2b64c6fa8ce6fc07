#include "support/gradcheck.h"

#include <ops/whole_vectors.h>

#include <rora/ops/attention.h>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

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

/// Rows of runs: of padding, of new sequences and, where `returning`, at times of one that has been before.
at::Tensor random_mask(int64_t rows, int64_t tokens, bool returning) {
  at::Tensor mask = at::zeros({rows, tokens}, at::kLong);
  const auto draw = [](int64_t count) { return at::randint(0, count, {}, at::kLong).item<int64_t>(); };
  for (int64_t row = 0; row < rows; ++row) {
    int64_t latest = 0;
    for (int64_t begin = 0; begin < tokens;) {
      const int64_t end = std::min(tokens, begin + 1 + draw(4));
      const int64_t id = draw(4) == 0 ? 0 : returning && latest > 0 && draw(4) == 0 ? 1 + draw(latest) : ++latest;
      mask[row].slice(0, begin, end) = id;
      begin = end;
    }
  }
  return mask;
}

/// As the definition reads: whether no sequence has a hole, where each run of a row begins, and the longest.
struct Expected {
  bool whole = true;
  std::vector<int64_t> begins;
  int64_t longest = 0;
};

Expected read_by_definition(const at::Tensor& mask) {
  Expected expected;
  const int64_t tokens = mask.size(1);
  for (int64_t row = 0; row < mask.size(0); ++row) {
    const auto id = [&](int64_t place) { return mask[row][place].item<int64_t>(); };
    for (int64_t first = 0; first < tokens; ++first) {
      if (first == 0 || id(first) != id(first - 1)) {
        expected.begins.push_back(row * tokens + first);
      }
      for (int64_t last = first + 1; last < tokens; ++last) {
        bool one = true;
        for (int64_t between = first; between <= last; ++between) {
          one = one && id(between) == id(first);
        }
        expected.longest = std::max(expected.longest, one ? last + 1 - first : 1);
        expected.whole = expected.whole && (one || id(first) == 0 || id(first) != id(last));
      }
      expected.longest = std::max<int64_t>(expected.longest, 1);
    }
  }
  expected.begins.push_back(mask.numel());
  return expected;
}

TEST(Attention, RefusesSizesThatDoNotGoTogether) {
  const auto x = [](at::IntArrayRef sizes) { return at::randn(sizes); };
  const auto refuses = [](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    EXPECT_THROW(attention(q, k, v), c10::ValueError) << q.sizes() << k.sizes() << v.sizes();
  };
  const at::Tensor q = x({2, 4, 6, 8}), k = x({2, 2, 6, 8});
  refuses(q, x({2, 3, 6, 8}), x({2, 3, 6, 8}));
  refuses(q, x({2, 2, 6, 4}), x({2, 2, 6, 4}));
  refuses(q, k, x({2, 2, 1, 8}));
  refuses(q, x({1, 2, 6, 8}), x({1, 2, 6, 8}));
  refuses(q, x({2, 2, 5, 8}), x({2, 2, 5, 8}));
  refuses(q[0], k[0], k[0]);
  for (const at::IntArrayRef sizes : std::vector<std::vector<int64_t>>{{2, 5}, {1, 6}, {6}}) {
    EXPECT_THROW(attention(q, k, k, at::ones(sizes, at::kLong)), c10::ValueError) << sizes;
  }
}

TEST(VarlenAttention, RefusesSizesAndBoundariesThatDoNotGoTogether) {
  const at::Tensor q = at::randn({5, 4, 8}), k = at::randn({5, 2, 8});
  const auto runs = [](const std::vector<int32_t>& begins) { return at::tensor(begins, at::kInt); };
  EXPECT_NO_THROW(varlen_attention(q, k, k, runs({0, 2, 5}), 3));
  for (const std::vector<int32_t>& begins :
       {std::vector<int32_t>{0, 2, 9}, {0, 4, 2, 5}, {1, 5}, {-1, 5}, {0, 2}, {0}}) {
    EXPECT_THROW(varlen_attention(q, k, k, runs(begins), 5), c10::ValueError);
  }
  EXPECT_THROW(varlen_attention(q, k, k, at::zeros({2}, at::kLong), 5), c10::ValueError);
  EXPECT_THROW(varlen_attention(q, at::randn({4, 2, 8}), at::randn({4, 2, 8}), runs({0, 5}), 5), c10::ValueError);
}

TEST(FindSequences, ReadsBoundariesAsTheyAreDefined) {
  at::manual_seed(9);
  int whole = 0, torn = 0;
  for (int round = 0; round < 200; ++round) {
    const at::Tensor mask = random_mask(1 + round % 3, 1 + round % 23, /*returning=*/round % 2 == 1);
    const Sequences found = find_sequences(mask);
    const Expected expected = read_by_definition(mask);
    EXPECT_TRUE(found.ids.is_same(mask));
    ASSERT_EQ(found.boundaries.defined(), expected.whole) << mask;
    if (!expected.whole) {
      ++torn;
      continue;
    }
    ++whole;
    EXPECT_EQ(found.boundaries.scalar_type(), at::kInt);
    EXPECT_TRUE(at::equal(found.boundaries.to(at::kLong), at::tensor(expected.begins, at::kLong))) << mask;
    EXPECT_EQ(found.longest, expected.longest) << mask;
  }
  EXPECT_GT(whole, 50);
  EXPECT_GT(torn, 20);
}

TEST(FindSequences, EndsARunWithItsRow) {
  const Sequences found = find_sequences(longs({{1, 1, 1}, {1, 1, 1}, {0, 0, 1}, {2, 2, 1}}));
  EXPECT_TRUE(at::equal(found.boundaries, at::tensor({0, 3, 6, 8, 9, 11, 12}, at::kInt)));
  EXPECT_EQ(found.longest, 3);
  EXPECT_FALSE(find_sequences(longs({{1, 1, 1}, {1, 0, 1}})).boundaries.defined()) << "padding amid a sequence";
  EXPECT_TRUE(find_sequences(longs({{0, 1, 0}})).boundaries.defined()) << "padding on both sides";
  EXPECT_FALSE(find_sequences(at::zeros({0, 4}, at::kLong)).boundaries.defined());
  EXPECT_FALSE(find_sequences(at::zeros({4, 0}, at::kLong)).boundaries.defined());
}

TEST(FindSequences, TakesAMaskOfAnyStridesAndIntegers) {
  const at::Tensor mask = longs({{1, 1, 2, 2}, {0, 1, 1, 1}});
  const at::Tensor turned = mask.t().contiguous().t();
  EXPECT_TRUE(at::equal(find_sequences(turned).boundaries, find_sequences(mask).boundaries));
  EXPECT_TRUE(at::equal(find_sequences(mask.to(at::kInt)).boundaries, find_sequences(mask).boundaries));
}

TEST(ReadSequences, LooksForBoundariesForAGpuAloneAndStaysOnTheCpu) {
  const at::Tensor mask = longs({{1, 1, 2}});
  for (const at::Device device : {at::Device(at::kCPU), at::Device(at::kMeta), at::Device(at::kCUDA)}) {
    const Sequences read = read_sequences(mask, device);
    EXPECT_TRUE(read.ids.is_same(mask)) << device;
    EXPECT_EQ(read.boundaries.defined(), device.is_cuda()) << device;
  }
  EXPECT_TRUE(read_sequences(mask, at::kCUDA).boundaries.is_cpu());
}

/// Attention by boundaries, heads turned as it takes them.
at::Tensor by_boundaries(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& mask) {
  const Sequences sequences = find_sequences(mask);
  const auto tokens = [](const at::Tensor& x) { return x.transpose(1, 2).reshape({-1, x.size(1), x.size(3)}); };
  return varlen_attention(tokens(q), tokens(k), tokens(v), sequences.boundaries, sequences.longest)
      .reshape({q.size(0), q.size(2), q.size(1), q.size(3)})
      .transpose(1, 2);
}

TEST(VarlenAttention, IsTheMaskedAttentionOfRealTokens) {
  at::manual_seed(10);
  for (const int64_t head_dim : {5, 8, 6, 20}) { // those that are no multiple of 8 are padded
    for (int round = 0; round < 20; ++round) {
      const at::Tensor mask = random_mask(3, 2 + round, /*returning=*/false);
      const at::Tensor real = (mask > 0).view({3, 1, mask.size(1), 1}).to(at::kDouble);
      std::vector<at::Tensor> inputs;
      for (const int64_t heads : {4, 2, 2}) {
        inputs.push_back(at::randn({3, heads, mask.size(1), head_dim}, at::kDouble).set_requires_grad(true));
      }
      const at::Tensor weights = at::randn({3, 4, mask.size(1), head_dim}, at::kDouble) * real;
      const at::Tensor packed = by_boundaries(inputs[0], inputs[1], inputs[2], mask);
      const at::Tensor masked = attention(inputs[0], inputs[1], inputs[2], mask);
      EXPECT_TRUE(at::isfinite(packed).all().item<bool>());
      EXPECT_TRUE(at::allclose(packed * real, masked * real, 1e-12, 1e-12)) << mask;
      const auto gradients = torch::autograd::grad({packed}, inputs, {weights});
      const auto expected = torch::autograd::grad({masked}, inputs, {weights});
      for (size_t i = 0; i < inputs.size(); ++i) {
        EXPECT_TRUE(at::allclose(gradients[i], expected[i], 1e-11, 1e-11)) << i << mask;
      }
    }
  }
}

TEST(VarlenAttention, ReadsHeadsOfAnyStrides) {
  at::manual_seed(12);
  const at::Tensor boundaries = at::tensor({0, 3, 7}, at::kInt);
  const at::Tensor room = at::randn({7, 3, 21});
  const at::Tensor q = room.narrow(2, 1, 8), k = room.narrow(2, 9, 8).narrow(1, 0, 1);
  const at::Tensor v = at::randn({8, 1, 7}).transpose(0, 2);
  EXPECT_TRUE(at::allclose(
      varlen_attention(q, k, v, boundaries, 4),
      varlen_attention(q.contiguous(), k.contiguous(), v.contiguous(), boundaries, 4), 1e-5, 1e-6));
}

TEST(WholeVectors, AreCopiedOnlyWhereARowBeginsWithinOne) {
  const at::Tensor heads = at::randn({2, 3, 4, 16}).to(at::kBFloat16); // rows of 32 bytes
  for (const at::Tensor& whole : {heads, heads.transpose(1, 2), heads.narrow(3, 8, 8)}) {
    EXPECT_TRUE(detail::in_whole_vectors(whole).is_same(whole)) << whole.strides();
  }
  const at::Tensor odd_rows = at::randn({2, 3, 4, 17}).to(at::kBFloat16).narrow(3, 0, 16);
  for (const at::Tensor& each : {heads.narrow(3, 1, 8), heads.narrow(3, 4, 8), odd_rows, heads.transpose(2, 3)}) {
    const at::Tensor own = detail::in_whole_vectors(each);
    EXPECT_TRUE(own.is_contiguous());
    EXPECT_TRUE(at::equal(own, each));
  }
}

TEST(AttentionWithin, GivesTheCpuTheSameBitsWithBoundariesOrWithout) {
  at::manual_seed(11);
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const at::Tensor mask = random_mask(2, 40, /*returning=*/false);
    const at::Tensor q = at::randn({2, 4, 40, 16}).to(dtype), k = at::randn({2, 2, 40, 16}).to(dtype);
    const at::Tensor v = at::randn({2, 2, 40, 16}).to(dtype);
    ASSERT_TRUE(find_sequences(mask).boundaries.defined());
    EXPECT_TRUE(at::equal(attention_within(find_sequences(mask), q, k, v), attention(q, k, v, mask)));
    EXPECT_TRUE(at::equal(attention_within({}, q, k, v), attention(q, k, v)));
    const at::Tensor last = q.slice(2, 39);
    EXPECT_TRUE(at::equal(attention_within(find_sequences(mask), last, k, v), attention(last, k, v, mask)));
  }
}

/// Counted pair by pair.
at::Tensor seen_by_definition(const at::Tensor& mask, const Window& window) {
  const int64_t rows = mask.size(0), tokens = mask.size(1);
  at::Tensor seen = at::zeros({rows, 1, tokens, tokens}, at::kBool);
  for (int64_t row = 0; row < rows; ++row) {
    const auto id = [&](int64_t place) { return mask[row][place].item<int64_t>(); };
    for (int64_t query = 0; query < tokens; ++query) {
      int64_t between = 0; // tokens of the query's sequence from the key to it
      for (int64_t key = query; key >= 0; --key) {
        const bool same = id(key) > 0 && id(key) == id(query);
        between += same;
        const bool near = window.size == 0 || between <= window.size || key < window.prefix;
        seen[row][0][query][key].fill_(key == query || (same && near));
      }
    }
  }
  return seen;
}

TEST(VisibleKeys, AreThoseOfTheDefinition) {
  at::manual_seed(13);
  for (int round = 0; round < 60; ++round) {
    const int64_t tokens = 1 + round % 17;
    const at::Tensor ones = at::ones({2, tokens}, at::kLong);
    const at::Tensor padded = ones * (at::rand({2, tokens}) < 0.7);
    const Window window{round % 5, 0};
    const auto packed = random_mask(2, tokens, /*returning=*/false);
    for (const at::Tensor& mask : {ones, padded, packed}) {
      EXPECT_TRUE(at::equal(visible_keys(mask, tokens, tokens, at::kCPU, window), seen_by_definition(mask, window)))
          << mask << window.size;
    }
    const Window behind_prefix{1 + round % 4, round % 3};
    const at::Tensor seen = seen_by_definition(ones, behind_prefix);
    EXPECT_TRUE(at::equal(visible_keys(ones, tokens, tokens, at::kCPU, behind_prefix), seen));
    EXPECT_TRUE(at::equal(visible_keys({}, tokens, tokens, at::kCPU, behind_prefix), seen.slice(0, 0, 1)));
    const int64_t last = (tokens + 1) / 2;
    EXPECT_TRUE(at::equal(visible_keys(ones, last, tokens, at::kCPU, behind_prefix), seen.slice(2, tokens - last)));
  }
}

TEST_F(AttentionTest, WithinAWindowHidesWhatIsFurtherAway) {
  const at::Tensor mask = longs({{1, 1, 1, 1, 1}, {0, 1, 1, 1, 2}});
  const Window window{2};
  const at::Tensor allowed = seen_by_definition(mask, window);
  EXPECT_LT(relative_error(attention(q, k, v, mask, window), expected(q, k, v, allowed)), 1e-13);
  EXPECT_LT(relative_error(attention_within({mask}, q, k, v, window), expected(q, k, v, allowed)), 1e-13);
  const at::Tensor last = q.slice(2, 4);
  EXPECT_LT(relative_error(attention(last, k, v, mask, window), expected(last, k, v, allowed.slice(2, 4))), 1e-13);
  EXPECT_TRUE(at::equal(attention(q, k, v, mask, {5}), attention(q, k, v, mask))) << "a window over the whole row";
  const auto function = [&](const std::vector<at::Tensor>& in) -> std::vector<at::Tensor> {
    return {attention(in[0], in[1], in[2], mask, window)};
  };
  EXPECT_LT(gradient_error(function, {q, k, v}), 1e-7);
}

TEST(PositionsInSequence, CountEachSequenceFromZero) {
  const at::Tensor mask = longs({{1, 1, 1, 2, 2, 0}, {0, 0, 1, 1, 1, 1}, {1, 2, 3, 3, 0, 0}, {0, 1, 0, 1, 2, 2}});
  EXPECT_TRUE(at::equal(
      positions_in_sequence(mask),
      longs({{0, 1, 2, 0, 1, 0}, {0, 0, 0, 1, 2, 3}, {0, 0, 0, 1, 0, 0}, {0, 0, 0, 1, 0, 1}})));
}

} // namespace
} // namespace rora::ops
