#include "support/gradcheck.h"

#include <rora/core/dora_norm.h>
#include <rora/core/low_rank_linear.h>
#include <rora/core/low_rank_matrices.h>
#include <rora/core/low_rank_products.h>
#include <rora/core/product_of_halves.h>
#include <rora/core/sum_of_products.h>
#include <rora/ops/prepacked_weight.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

namespace rora::ops {
namespace {

using rora::testing::gradient_error;
using rora::testing::relative_error;

constexpr int64_t kTokens = 5;
constexpr int64_t kIn = 7;
constexpr int64_t kOut = 6;
constexpr double kScale = 0.7;

struct Case {
  const char* name;
  bool low_rank = true;
  bool dora = false;
  double dropout = 0.0;
  DoraDropout dora_dropout = DoraDropout::kInput;
  bool bias = false;
  bool trainable_weight = false;
  int64_t rank = 3;
  bool stored_otherwise = false; ///< W gives its products, not itself
};

/// A weight as a quantised one would be: without a matrix.
class HiddenWeight : public DenseWeight {
 public:
  using DenseWeight::DenseWeight;
  at::Tensor forward_matrix() const override {
    return {};
  }
  at::Tensor backward_matrix() const override {
    return {};
  }
};

class LowRankLinearTest : public ::testing::TestWithParam<Case> {
 protected:
  LowRankLinearTest() {
    at::manual_seed(1);
    x = random({2, kTokens, kIn});
    w = random({kOut, kIn});
    a = random({GetParam().rank, kIn});
    b = random({kOut, GetParam().rank});
    m = random({kOut}).abs() + 0.5;
    bias = random({kOut});
  }

  static at::Tensor random(at::IntArrayRef sizes) {
    return at::randn(sizes, at::kDouble);
  }

  /// The tensors that train, in the order x, W, bias, A, B, m of those there are.
  std::vector<at::Tensor> inputs() const {
    const Case& c = GetParam();
    std::vector<at::Tensor> tensors{x};
    if (c.trainable_weight) {
      tensors.push_back(w);
    }
    if (c.bias) {
      tensors.push_back(bias);
    }
    if (c.low_rank) {
      tensors.push_back(a);
      tensors.push_back(b);
    }
    if (c.dora) {
      tensors.push_back(m);
    }
    return tensors;
  }

  /// Takes `inputs()` apart again. The norm is a constant of the graph: that of the first A and B, whatever these are.
  LowRankTerm term(const std::vector<at::Tensor>& tensors) const {
    const Case& c = GetParam();
    LowRankTerm term;
    size_t next = 1;
    const at::Tensor weight = c.trainable_weight ? tensors[next++] : w;
    if (c.stored_otherwise) {
      term.weight = std::make_shared<HiddenWeight>(weight.detach());
    } else {
      term.weight = std::make_shared<DenseWeight>(weight.detach());
    }
    term.trainable_weight = c.trainable_weight ? weight : at::Tensor();
    term.bias = c.bias ? tensors[next++] : at::Tensor();
    if (c.low_rank) {
      term.a = tensors[next++];
      term.b = tensors[next++];
      term.scale = kScale;
      term.dropout = {c.dropout, 17};
      term.dora_dropout = c.dora_dropout;
    }
    if (c.dora) {
      term.magnitude = tensors[next++];
      const DenseWeight dense(w);
      term.norm = dora_norm(dense, row_norm_squared(dense), a, b, kScale);
    }
    return term;
  }

  /// The equations, written with ordinary tensor operations.
  at::Tensor expected() const {
    const Case& c = GetParam();
    const at::Tensor dropped = c.dropout > 0 ? Dropout{c.dropout, 17}.apply(x.view({-1, kIn})).view_as(x) : x;
    at::Tensor y = at::linear(x, w);
    if (c.low_rank) {
      const at::Tensor change = kScale * at::linear(at::linear(dropped, a), b);
      if (c.dora) {
        const at::Tensor n = m / (w + kScale * b.mm(a)).norm(2, 1);
        y = c.dora_dropout == DoraDropout::kInput ? y + (n - 1) * at::linear(dropped, w) + n * change
                                                  : n * (y + change);
      } else {
        y = y + change;
      }
    }
    return c.bias ? y + bias : y;
  }

  at::Tensor x, w, a, b, m, bias;
};

TEST_P(LowRankLinearTest, IsItsEquation) {
  EXPECT_LT(relative_error(low_rank_linear(x, {term(inputs())})[0], expected()), 1e-13);
}

TEST_P(LowRankLinearTest, PassesGradcheckInDouble) {
  const auto function = [this](const std::vector<at::Tensor>& tensors) {
    return low_rank_linear(tensors[0], {term(tensors)});
  };
  EXPECT_LT(gradient_error(function, inputs()), 1e-7);
}

TEST_P(LowRankLinearTest, GroupedTermsAreThoseOneByOne) {
  const auto alone = low_rank_linear(x, {term(inputs())})[0];
  LowRankTerm frozen;
  frozen.weight = std::make_shared<DenseWeight>(w);
  const auto together = low_rank_linear(x, {term(inputs()), frozen, term(inputs())});
  EXPECT_TRUE(at::equal(together[0], alone));
  EXPECT_TRUE(at::equal(together[2], alone));
  EXPECT_LT(relative_error(together[1], at::linear(x, w)), 1e-14);

  const auto function = [this](const std::vector<at::Tensor>& tensors) {
    LowRankTerm other;
    other.weight = std::make_shared<DenseWeight>(w);
    return low_rank_linear(tensors[0], {other, term(tensors), term(tensors)});
  };
  EXPECT_LT(gradient_error(function, inputs()), 1e-7);
}

// A GPU's products take ranks that are multiples of 8, made up with zeros.
TEST_P(LowRankLinearTest, IsTheSameInAGpusForm) {
  const detail::LowRankForm form{at::kDouble, 8};
  const auto outputs = [&](const detail::LowRankForm& taken, const std::vector<at::Tensor>& tensors) {
    LowRankTerm frozen;
    frozen.weight = std::make_shared<DenseWeight>(w);
    return detail::low_rank_linear_in(taken, tensors[0], {term(tensors), frozen, term(tensors)});
  };
  const auto shared = [&](const std::vector<at::Tensor>& tensors) {
    return detail::low_rank_linear_in(form, tensors[0], {term(tensors), term(tensors)});
  };
  EXPECT_LT(relative_error(outputs(form, inputs())[0], expected()), 1e-13);
  EXPECT_LT(relative_error(outputs(form, inputs())[2], expected()), 1e-13);
  EXPECT_LT(relative_error(shared(inputs())[1], expected()), 1e-13);
  EXPECT_LT(gradient_error([&](const auto& tensors) { return outputs(form, tensors); }, inputs()), 1e-7);
  EXPECT_LT(gradient_error(shared, inputs()), 1e-7);
}

TEST_P(LowRankLinearTest, PassesGradcheckWithAFrozenAdapter) {
  for (const bool freeze_b : {false, true}) {
    if (!freeze_b && !GetParam().low_rank) {
      continue;
    }
    const auto function = [&](const std::vector<at::Tensor>& tensors) {
      LowRankTerm frozen = term(inputs());
      if (!freeze_b) {
        frozen.b = tensors[1];
      }
      return low_rank_linear(tensors[0], {frozen});
    };
    EXPECT_LT(gradient_error(function, freeze_b ? std::vector{x} : std::vector{x, b}), 1e-7);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Modes, LowRankLinearTest,
    ::testing::Values(
        Case{.name = "Frozen", .low_rank = false}, Case{.name = "FrozenBias", .low_rank = false, .bias = true},
        Case{.name = "TrainedWeight", .low_rank = false, .bias = true, .trainable_weight = true},
        Case{.name = "LowRank"}, Case{.name = "LowRankOfRank9", .rank = 9},
        Case{.name = "LowRankOfAStoredWeight", .bias = true, .stored_otherwise = true},
        Case{.name = "DoraOfAStoredWeight", .dora = true, .dropout = 0.3, .stored_otherwise = true},
        Case{.name = "LowRankBias", .bias = true}, Case{.name = "LowRankDropout", .dropout = 0.3},
        Case{.name = "LowRankAndWeight", .dropout = 0.3, .trainable_weight = true}, Case{.name = "Dora", .dora = true},
        Case{.name = "DoraBias", .dora = true, .bias = true},
        Case{.name = "DoraDropsInput", .dora = true, .dropout = 0.3, .bias = true},
        Case{.name = "DoraDropsInputAndWeight", .dora = true, .dropout = 0.3, .trainable_weight = true},
        Case{.name = "DoraDropsLowRank", .dora = true, .dropout = 0.3, .dora_dropout = DoraDropout::kLowRank}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(LowRankLinear, RefusesASecondDerivative) {
  const at::Tensor x = at::randn({4, 3}, at::kDouble).set_requires_grad(true);
  LowRankTerm term;
  term.weight = std::make_shared<DenseWeight>(at::randn({2, 3}, at::kDouble));
  const at::Tensor y = low_rank_linear(x, {term})[0].square().sum();
  EXPECT_THROW(torch::autograd::grad({y}, {x}, {}, true, /*create_graph=*/true), c10::NotImplementedError);
}

TEST(LowRankLinear, AnOutputThatNothingUsesHasNoGradient) {
  const at::Tensor x = at::randn({4, 3}, at::kDouble).set_requires_grad(true);
  LowRankTerm one, two;
  const at::Tensor w = at::randn({5, 3}, at::kDouble);
  one.weight = std::make_shared<DenseWeight>(w);
  two = one;
  two.a = at::randn({2, 3}, at::kDouble).set_requires_grad(true);
  two.b = at::randn({5, 2}, at::kDouble).set_requires_grad(true);
  low_rank_linear(x, {one, two})[0].sum().backward();
  EXPECT_LT(relative_error(x.grad(), w.sum(0).expand_as(x)), 1e-14);
  EXPECT_FALSE(two.a.grad().defined());
}

TEST(LowRankLinear, TakesStridedInputAndEmptyBatches) {
  LowRankTerm term;
  const at::Tensor w = at::randn({5, 3}, at::kDouble);
  term.weight = std::make_shared<DenseWeight>(w);
  const at::Tensor strided = at::randn({3, 8, 2}, at::kDouble).permute({2, 1, 0});
  EXPECT_LT(relative_error(low_rank_linear(strided, {term})[0], at::linear(strided, w)), 1e-14);
  EXPECT_EQ(low_rank_linear(at::empty({0, 4, 3}, at::kDouble), {term})[0].sizes(), (std::vector<int64_t>{0, 4, 5}));
}

TEST(LowRankLinear, Bfloat16IsAsNearToFloatAsTheEagerForm) {
  at::manual_seed(3);
  const at::Tensor x = at::randn({64, 96}), w = at::randn({80, 96}) / 10, a = at::randn({8, 96}) / 10,
                   b = at::randn({80, 8}) / 10;
  const at::Tensor exact = at::linear(x, w) + 2.0 * at::linear(at::linear(x, a), b);
  const auto round = [](const at::Tensor& tensor) { return tensor.to(at::kBFloat16); };
  LowRankTerm term;
  term.weight = std::make_shared<DenseWeight>(round(w));
  term.a = a;
  term.b = b;
  term.scale = 2.0;
  const at::Tensor ours = low_rank_linear(round(x), {term})[0];
  EXPECT_EQ(ours.scalar_type(), at::kBFloat16);
  const at::Tensor eager = at::linear(round(x), round(w)) + 2.0 * at::linear(at::linear(round(x), round(a)), round(b));
  EXPECT_LT(
      (ours.to(at::kFloat) - exact).norm().item<double>(), 1.5 * (eager.to(at::kFloat) - exact).norm().item<double>());
}

TEST(LowRankLinear, RoundsAAndBOnceInAGpusForm) {
  at::manual_seed(5);
  std::vector<LowRankTerm> terms(3);
  for (size_t i = 0; i < terms.size(); ++i) {
    terms[i].weight = std::make_shared<DenseWeight>(at::randn({24, 32}).to(at::kBFloat16));
    terms[i].a = at::randn({static_cast<int64_t>(3 + 5 * i), 32}).set_requires_grad(true);
    terms[i].b = at::randn({24, terms[i].a.size(0)}).set_requires_grad(true);
  }
  const at::Tensor x = at::randn({9, 32}).to(at::kBFloat16).set_requires_grad(true);
  const auto gradients_in = [&](const detail::LowRankForm& form) {
    at::Tensor sum = at::zeros({});
    for (const at::Tensor& y : detail::low_rank_linear_in(form, x, terms)) {
      sum = sum + y.to(at::kFloat).square().sum();
    }
    std::vector<at::Tensor> leaves{x};
    for (const LowRankTerm& term : terms) {
      leaves.push_back(term.a);
      leaves.push_back(term.b);
    }
    return torch::autograd::grad({sum}, leaves);
  };
  const auto found = gradients_in({at::kBFloat16, 8}), expected = gradients_in({});
  for (size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(found[i].scalar_type(), expected[i].scalar_type());
    EXPECT_EQ(found[i].sizes(), expected[i].sizes());
    EXPECT_LT(relative_error(found[i], expected[i]), 1e-2) << i;
  }
}

TEST(DoraNorm, IsTheNormOfTheDenseSum) {
  at::manual_seed(2);
  const at::Tensor w = at::randn({40, 30}), a = at::randn({4, 30}), b = at::randn({40, 4});
  const DenseWeight dense(w);
  const at::Tensor expected = (w.to(at::kDouble) + 1.5 * b.to(at::kDouble).mm(a.to(at::kDouble))).norm(2, 1);
  EXPECT_LT(relative_error(dora_norm(dense, row_norm_squared(dense), a, b, 1.5), expected), 1e-6);
}

// Where W in fp32 would be a copy, A beside a W in bf16 is taken to 16 bits.
TEST(DoraNorm, OfAnAInHalvesIsAsExactAsFp32) {
  if (!can_prepack_weights(at::kBFloat16)) {
    GTEST_SKIP() << "no kernel here leaves a sum of bf16 in fp32";
  }
  at::manual_seed(4);
  for (const double size : {0.01, 0.3, 3.0}) {
    const at::Tensor w = (at::randn({300, 1024}) / 32).to(at::kBFloat16), a = at::randn({16, 1024}) / 32;
    const at::Tensor b = size * at::randn({300, 16});
    const at::Tensor wide_w = w.to(at::kDouble), wide_a = a.to(at::kDouble);
    const at::Tensor product = detail::product_of_halves(a, w.t());
    EXPECT_EQ(product.scalar_type(), at::kFloat);
    const at::Tensor exact = wide_a.mm(wide_w.t());
    EXPECT_LT(relative_error(product, exact), 5e-6);
    const at::Tensor rounded = sum_of_products({a.to(at::kBFloat16)}, {w.t()}, 1.0, std::nullopt, at::kFloat);
    EXPECT_GT(relative_error(rounded, exact), 1e-3) << "one of bf16 would do";
    const at::Tensor norm =
        dora_norm_rows(row_norm_squared(DenseWeight(w)), product.t(), b, a.mm(a.t()), 2.0).to(at::kDouble);
    const at::Tensor expected = (wide_w + 2.0 * b.to(at::kDouble).mm(wide_a)).norm(2, 1);
    EXPECT_LT(((norm - expected).abs() / expected).max().item<double>(), 5e-7) << size;
  }
}

TEST(DoraNorm, OfAnAInHalvesTakesAnyA) {
  const at::Tensor w = at::randn({3, 4}).to(at::kBFloat16);
  EXPECT_EQ(detail::product_of_halves(at::empty({0, 4}), w.t()).sizes(), (std::vector<int64_t>{0, 3}));
  const at::Tensor exact = at::full({1, 4}, 1.0 + 1.0 / 1024); // 11 bits
  EXPECT_TRUE(at::equal(detail::product_of_halves(exact, at::eye(4, at::kBFloat16)), exact));
  EXPECT_TRUE(at::equal(
      detail::product_of_halves(at::full({1, 4}, 1e-30), at::zeros({4, 4}, at::kBFloat16)), at::zeros({1, 4})));
}

TEST(DoraNorm, AZeroRowGivesZerosAndNoNan) {
  at::Tensor w = at::randn({3, 4}, at::kDouble);
  w[1].zero_();
  const DenseWeight dense(w);
  LowRankTerm term;
  term.weight = std::make_shared<DenseWeight>(w);
  term.a = at::randn({2, 4}, at::kDouble).set_requires_grad(true);
  term.b = at::zeros({3, 2}, at::kDouble).set_requires_grad(true);
  term.norm = dora_norm(dense, row_norm_squared(dense), term.a, term.b, 1.0);
  term.magnitude = term.norm.clone().set_requires_grad(true);
  const at::Tensor y = low_rank_linear(at::randn({5, 4}, at::kDouble), {term})[0];
  EXPECT_TRUE((y.select(1, 1) == 0).all().item<bool>());
  y.sum().backward();
  for (const at::Tensor& gradient : {term.a.grad(), term.b.grad(), term.magnitude.grad()}) {
    EXPECT_TRUE(at::isfinite(gradient).all().item<bool>());
  }
}

} // namespace
} // namespace rora::ops
