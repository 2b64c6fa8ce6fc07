#include <rora/core/dora_norm.h>
#include <rora/core/gradient_buffer.h>
#include <rora/core/low_rank_linear.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <vector>

namespace rora::ops {
namespace {

constexpr int64_t kIn = 32;
constexpr int64_t kRank = 8;

at::Tensor leaf(at::IntArrayRef sizes, double seed) {
  return at::arange(at::empty(sizes).numel(), at::kFloat).mul_(seed).sin_().reshape(sizes).set_requires_grad(true);
}

/// The projections of one input, each of its own width; `dora` gives them magnitudes.
std::vector<LowRankTerm> terms(size_t count, bool dora = false) {
  std::vector<LowRankTerm> all(count);
  for (size_t i = 0; i < count; ++i) {
    const auto out = static_cast<int64_t>(48 + 16 * i);
    const double seed = 1.0 + static_cast<double>(i);
    LowRankTerm& term = all[i];
    const at::Tensor w = leaf({out, kIn}, 0.3 * seed).detach().to(at::kBFloat16);
    term.weight = std::make_shared<DenseWeight>(w);
    term.a = leaf({kRank, kIn}, 0.7 * seed);
    term.b = leaf({out, kRank}, 1.1 * seed);
    term.scale = 0.5;
    if (dora) {
      term.magnitude = leaf({out}, 0.9).detach().abs().add_(1.0).set_requires_grad(true);
      term.norm = dora_norm(*term.weight, row_norm_squared(*term.weight), term.a.detach(), term.b.detach(), term.scale);
    }
  }
  return all;
}

const at::Tensor& input() {
  static const at::Tensor x = at::arange(16 * kIn, at::kFloat).mul_(0.37).cos_().reshape({16, kIn}).to(at::kBFloat16);
  return x;
}

void backward(const std::vector<LowRankTerm>& all) {
  at::Tensor sum = at::zeros({}, at::kFloat);
  for (const at::Tensor& y : low_rank_linear(input(), all)) {
    sum = sum + y.to(at::kFloat).square().sum();
  }
  sum.backward();
}

/// As where a node has asked for it before.
std::shared_ptr<GradientBuffer> offered_buffer(const at::Tensor& leaf, const at::Tensor& buffer) {
  auto made = std::make_shared<GradientBuffer>(buffer);
  made->take(leaf);
  EXPECT_TRUE(made->offer());
  return made;
}

/// Offers each A's and B's part of one buffer, A's above each other as `ParameterTable` has them.
at::Tensor offer(std::vector<LowRankTerm>& all) {
  int64_t size = 0;
  for (const LowRankTerm& term : all) {
    size += term.a.numel() + term.b.numel();
  }
  at::Tensor buffer = at::full({size}, 1e9); // what is there before does not count
  int64_t begin = 0;
  const auto next = [&](const at::Tensor& leaf) {
    const at::Tensor part = buffer.narrow(0, begin, leaf.numel()).view(leaf.sizes());
    begin += leaf.numel();
    return offered_buffer(leaf, part);
  };
  for (LowRankTerm& term : all) {
    term.a_gradient = next(term.a);
  }
  for (LowRankTerm& term : all) {
    term.b_gradient = next(term.b);
  }
  return buffer;
}

TEST(GradientBuffer, HoldsTheGradientsBitForBit) {
  for (const bool dora : {false, true}) {
    for (const size_t count : {1, 3}) {
      auto plain = terms(count, dora), offered = terms(count, dora);
      backward(plain);
      const at::Tensor buffer = offer(offered);
      backward(offered);
      for (size_t i = 0; i < count; ++i) {
        EXPECT_TRUE(at::equal(offered[i].a.grad(), plain[i].a.grad()));
        EXPECT_TRUE(at::equal(offered[i].b.grad(), plain[i].b.grad()));
        EXPECT_TRUE(offered[i].a.grad().is_alias_of(buffer) && offered[i].b.grad().is_alias_of(buffer));
      }
    }
  }
}

TEST(GradientBuffer, OfBServesBesideAnAThatIsFrozen) {
  const auto with_frozen_a = [] {
    auto all = terms(3);
    all[0].a.set_requires_grad(false);
    return all;
  };
  auto plain = with_frozen_a(), offered = with_frozen_a();
  backward(plain);
  const at::Tensor buffer = offer(offered);
  backward(offered);
  EXPECT_FALSE(offered[0].a.grad().defined());
  EXPECT_TRUE(at::equal(offered[0].b.grad(), plain[0].b.grad()));
  EXPECT_TRUE(at::equal(offered[1].a.grad(), plain[1].a.grad()));
}

TEST(GradientBuffer, OfOneOfManyIsNoOthers) {
  auto plain = terms(3), offered = terms(3);
  backward(plain);
  const at::Tensor buffer = at::zeros({kRank, kIn});
  offered[1].a_gradient = offered_buffer(offered[1].a, buffer);
  backward(offered);
  for (size_t i = 0; i < plain.size(); ++i) {
    EXPECT_TRUE(at::equal(offered[i].a.grad(), plain[i].a.grad()));
  }
  EXPECT_EQ(buffer.abs().sum().item<double>(), 0.0) << "one product for all has its own result";
}

TEST(GradientBuffer, IsAddedToByFurtherPasses) {
  auto plain = terms(3), offered = terms(3);
  const at::Tensor buffer = offer(offered);
  for (int pass = 0; pass < 2; ++pass) {
    backward(plain);
    backward(offered);
  }
  for (size_t i = 0; i < plain.size(); ++i) {
    EXPECT_TRUE(at::equal(offered[i].a.grad(), plain[i].a.grad()));
    EXPECT_TRUE(at::equal(offered[i].b.grad(), plain[i].b.grad()));
    EXPECT_TRUE(offered[i].a.grad().is_alias_of(buffer));
  }
}

TEST(GradientBuffer, IsTakenByOneNodeOfALeafThatStandsInTwo) {
  const auto twice = [](const std::vector<LowRankTerm>& all) {
    const at::Tensor once = low_rank_linear(input(), all)[0], again = low_rank_linear(input() * 2.0, all)[0];
    (once.to(at::kFloat).square().sum() + again.to(at::kFloat).sum()).backward();
  };
  auto plain = terms(1), offered = terms(1);
  twice(plain);
  const at::Tensor buffer = offer(offered);
  twice(offered);
  EXPECT_TRUE(at::equal(offered[0].a.grad(), plain[0].a.grad()));
  EXPECT_TRUE(at::equal(offered[0].b.grad(), plain[0].b.grad()));
}

TEST(GradientBuffer, IsNotForGradientsThatAreReturned) {
  auto all = terms(3);
  const at::Tensor buffer = offer(all);
  const at::Tensor loss = low_rank_linear(input(), all)[0].to(at::kFloat).square().sum();
  for (const at::Tensor& each : torch::autograd::grad({loss}, {all[0].a, all[0].b})) {
    EXPECT_FALSE(each.is_alias_of(buffer));
  }
  EXPECT_TRUE(at::equal(buffer, at::full_like(buffer, 1e9)));
}

TEST(GradientBuffer, IsOfferedWhereANodeAskedForIt) {
  auto all = terms(1);
  const auto buffer = std::make_shared<GradientBuffer>(at::zeros_like(all[0].a));
  all[0].a_gradient = buffer;
  EXPECT_FALSE(buffer->offer());
  backward(all);
  EXPECT_TRUE(buffer->offer());
  buffer->withdraw();
  all[0].a.mutable_grad().reset();
  EXPECT_FALSE(buffer->take(all[0].a).defined());
}

TEST(GradientBuffer, IsForALeafOfItsSizesWithoutAGradient) {
  const at::Tensor a = leaf({2, 3}, 1.0), memory = at::zeros({2, 3});
  const auto buffer = offered_buffer(a, memory);
  EXPECT_TRUE(buffer->take(a).is_alias_of(memory));
  EXPECT_FALSE(buffer->take(a).defined()) << "taken once";
  EXPECT_FALSE(offered_buffer(a, memory.view({3, 2}))->take(a).defined()) << "of another size";
  const auto other = offered_buffer(a, memory);
  a.mutable_grad() = at::ones({2, 3});
  EXPECT_FALSE(other->take(a).defined()) << "there is a gradient, which autograd adds to";
}

} // namespace
} // namespace rora::ops
