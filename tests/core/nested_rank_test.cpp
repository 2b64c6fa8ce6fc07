#include "support/gradcheck.h"

#include <rora/core/low_rank_adapter.h>
#include <rora/core/projection.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <memory>
#include <optional>
#include <vector>

namespace rora {
namespace {

using testing::relative_error;

/// A projection of 5 × 7 with an adapter of rank 4 whose factors are random, in fp64.
struct Nested {
  explicit Nested(const LowRankOptions& options = LowRankOptions().rank(4).alpha(6.0)) {
    at::manual_seed(3);
    projection->reset_parameters();
    projection->to(at::kDouble);
    adapter = std::make_shared<LowRankAdapter>(*projection, options);
    at::NoGradGuard no_grad;
    adapter->lora_B.normal_();
    projection->attach("default", adapter);
  }

  /// W·x + s·B·A·x + bias by the first `rank` ranks.
  at::Tensor expected(const at::Tensor& x, int64_t rank) const {
    const double scale = scaling_factor(adapter->options.scaling(), adapter->options.alpha(), rank);
    const at::Tensor change = adapter->lora_B.narrow(1, 0, rank).mm(adapter->lora_A.narrow(0, 0, rank));
    return at::linear(x, projection->weight + scale * change, projection->bias);
  }

  Projection projection{5, 7, /*bias=*/true};
  std::shared_ptr<LowRankAdapter> adapter;
  at::Tensor x = at::randn({2, 3, 5}, at::kDouble);
};

class NestedRanks : public ::testing::TestWithParam<Scaling> {};

TEST_P(NestedRanks, TrainsAsTheAdapterOfThatRankAndIsWholeOutsideOfTraining) {
  Nested of(LowRankOptions().rank(4).alpha(6.0).scaling(GetParam()));
  for (int64_t rank = 1; rank <= 4; ++rank) {
    of.adapter->train_nested(rank);
    of.projection->train();
    EXPECT_LT(relative_error(of.projection->forward(of.x), of.expected(of.x, rank)), 1e-14) << rank;
    of.projection->eval();
    EXPECT_LT(relative_error(of.projection->forward(of.x), of.expected(of.x, 4)), 1e-14) << rank;
  }
  of.adapter->train_nested(std::nullopt);
  of.projection->train();
  EXPECT_LT(relative_error(of.projection->forward(of.x), of.expected(of.x, 4)), 1e-14);
}

INSTANTIATE_TEST_SUITE_P(
    , NestedRanks, ::testing::Values(Scaling::kStandard, Scaling::kRankStabilized),
    [](const auto& info) { return info.param == Scaling::kStandard ? "OfAlphaOverRank" : "OfAlphaOverItsRoot"; });

TEST(NestedRank, GradientsAreThoseOfTheFormulaAndOfTheLastRankAloneWhereAsked) {
  for (const bool last_only : {false, true}) {
    Nested of;
    of.projection->train();
    of.adapter->train_nested(3, last_only);
    const at::Tensor weights = at::randn({2, 3, 7}, at::kDouble);
    const auto gradients = [&](const at::Tensor& y) {
      return torch::autograd::grad({(y * weights).sum()}, {of.adapter->lora_A, of.adapter->lora_B});
    };
    const auto found = gradients(of.projection->forward(of.x));
    auto expected = gradients(of.expected(of.x, 3));
    if (last_only) {
      expected[0].narrow(0, 0, 2).zero_();
      expected[1].narrow(1, 0, 2).zero_();
    }
    for (const size_t each : {0, 1}) {
      EXPECT_LT(relative_error(found[each], expected[each]), 1e-13) << each << last_only;
      EXPECT_FALSE(found[each].select(static_cast<int64_t>(each), 3).any().item<bool>());
    }
  }
}

TEST(NestedRank, IsRefusedWhereTheFirstRanksAreNoAdapterByThemselves) {
  Nested of;
  EXPECT_THROW(of.adapter->train_nested(0), c10::ValueError);
  EXPECT_THROW(of.adapter->train_nested(5), c10::ValueError);
  EXPECT_FALSE(of.adapter->why_not_captured());
  of.adapter->train_nested(4);
  EXPECT_TRUE(of.adapter->why_not_captured());
  EXPECT_THROW(Nested(LowRankOptions().rank(4).dora(true)).adapter->train_nested(2), c10::ValueError);
}

} // namespace
} // namespace rora
