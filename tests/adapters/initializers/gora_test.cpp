#include "support.h"

#include <rora/adapters/initializers/gora.h>

#include <gmock/gmock.h>

#include <cmath>

namespace rora {
namespace {

using namespace rora::testing;
using ::testing::HasSubstr;

constexpr double kGamma = 0.05;

LowRankOptions options_of(int64_t rank) {
  return LowRankOptions().rank(rank).alpha(8).initializer(gora());
}

class GoRAOfScaling : public ::testing::TestWithParam<std::pair<Scaling, bool>> {};

TEST_P(GoRAOfScaling, TheStartIsAStepDownTheGradientSeenThroughA) {
  const auto [scaling, dora] = GetParam();
  Projection projection = graded_projection();
  const at::Tensor gradient = graded_gradient();
  const auto adapter = begin(projection, options_of(4).scaling(scaling).dora(dora), {gradient, {}, {}});
  const double c = kGamma * std::sqrt(12.0 / 4.0);
  const at::Tensor through_a = adapter->lora_A.t();
  EXPECT_LT(relative_error(change_of(*adapter).mm(through_a), -c * gradient.mm(through_a)), 1e-5);
  if (dora) {
    const at::Tensor norm = (projection->weight + change_of(*adapter)).norm(2, {1});
    EXPECT_LT(relative_error(adapter->lora_magnitude_vector, norm), 1e-6);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Each, GoRAOfScaling,
    ::testing::Values(
        std::pair{Scaling::kRankStabilized, false}, std::pair{Scaling::kStandard, false},
        std::pair{Scaling::kRankStabilized, true}));

TEST(GoRA, ChangesTheWeightByGammaTimesTheGradientOnAverage) {
  Projection projection = graded_projection(24, 10);
  const at::Tensor gradient = graded_gradient(24, 10);
  double sum = 0.0;
  constexpr int64_t kDraws = 1000;
  for (int64_t i = 0; i < kDraws; ++i) {
    const auto adapter = begin(projection, options_of(6), {gradient, {}, {}});
    sum += change_of(*adapter).square().sum().item<double>();
  }
  const double expected = kGamma * kGamma * gradient.square().sum().item<double>();
  EXPECT_NEAR(sum / kDraws / expected, 1.0, 0.03);
}

/// Candidates of one size whose importances are given.
std::vector<ChosenRank> ranks_for(
    const std::vector<double>& importances, int64_t rank, const GoRAOptions& options, int64_t out = 20) {
  std::vector<WeightStatistics> statistics(importances.size());
  std::vector<RankCandidate> candidates;
  for (size_t i = 0; i < importances.size(); ++i) {
    statistics[i].condensed["importance"] = at::scalar_tensor(importances[i], at::kDouble);
    candidates.push_back({"m" + std::to_string(i), 16, i == 0 ? out : 20, &statistics[i]});
  }
  return gora(options)->choose_ranks(candidates, LowRankOptions().rank(rank).alpha(8));
}

TEST(GoRA, SharesTheBudgetByImportanceOverTheRootOfTheSizes) {
  // Equal sizes: b/√(in+out) = 3·8 = 24, shared 1/2, 1/3, 1/6.
  const auto ranks = ranks_for({3.0, 2.0, 1.0}, 8, GoRAOptions().min_rank(1).max_rank(32));
  EXPECT_EQ(ranks[0].rank, 12);
  EXPECT_EQ(ranks[1].rank, 8);
  EXPECT_EQ(ranks[2].rank, 4);
  EXPECT_EQ(ranks[0].alpha, 8.0);
  // The first four times as large, √(16+128) = 12 for 6: b = (12 + 6 + 6)·8 = 192, a third each, 64/12 and 64/6.
  const auto unlike = ranks_for({1.0, 1.0, 1.0}, 8, GoRAOptions().min_rank(1).max_rank(32), 128);
  EXPECT_EQ(unlike[0].rank, 5);
  EXPECT_EQ(unlike[1].rank, 11);
}

TEST(GoRA, KeepsRanksWithinTheirBoundsAndTheWeightsSizes) {
  const auto ranks = ranks_for({100.0, 1.0, 0.0}, 4, GoRAOptions());
  EXPECT_EQ(ranks[0].rank, 12);
  EXPECT_EQ(ranks[1].rank, 2) << "half of the rank asked for";
  EXPECT_EQ(ranks[2].rank, 2);
  EXPECT_EQ(ranks_for({100.0, 1.0, 0.0}, 4, GoRAOptions().max_rank(8))[0].rank, 8);
  EXPECT_EQ(ranks_for({100.0, 1.0, 0.0}, 8, GoRAOptions())[0].rank, 16) << "24 columns are more than its inputs";
}

TEST(GoRA, SaysWhatBudgetCannotBeMet) {
  EXPECT_THAT(
      [] {
        ranks_for({1.0, 1.0}, 2, GoRAOptions().min_rank(4).max_rank(32));
      },
      ::testing::ThrowsMessage<c10::ValueError>(
          HasSubstr("rank 2 for every module, which min_rank 4 and max_rank 32 cannot meet")));
  EXPECT_THROW(ranks_for({1.0, 1.0}, 40, GoRAOptions().max_rank(32)), c10::ValueError);
  EXPECT_THAT(
      [] {
        ranks_for({0.0, 0.0}, 8, GoRAOptions());
      },
      ::testing::ThrowsMessage<c10::ValueError>(HasSubstr("no weight has any importance")));
  EXPECT_THROW(gora(GoRAOptions().min_rank(-1)), c10::ValueError);
  EXPECT_THROW(gora(GoRAOptions().min_rank(9).max_rank(8)), c10::ValueError);
  EXPECT_THROW(gora(GoRAOptions().gamma(-1.0)), c10::ValueError);
}

TEST(GoRA, TakesTheMeanProductOfWeightAndGradientForTheImportance) {
  Projection projection = graded_projection();
  WeightStatistics statistics{graded_gradient(), {}, {}};
  const double expected = (projection->weight * statistics.gradient).abs().mean().item<double>();
  gora()->condense(*projection, 4, statistics);
  EXPECT_NEAR(statistics.condensed.at("importance").item<double>() / expected, 1.0, 1e-6);
  EXPECT_FALSE(statistics.gradient.defined()) << "nothing of the weight's size is kept";
}

TEST(GoRA, LowersTheLossOfTheCapturedBatchesWhichTheOppositeSignRaises) {
  auto model = tiny_llama();
  const double before = loss_of_batches(model);
  const auto options = beginning_with(gora(GoRAOptions().min_rank(1).max_rank(8)));
  attach_adapters(*model, options, kDefaultAdapter, captured(model, options));
  const double after = loss_of_batches(model);
  EXPECT_LT(after, before);
  at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : named_adapter_parameters(*model)) {
    if (name.ends_with("lora_B")) {
      at::Tensor(tensor).neg_();
    }
  }
  EXPECT_GT(loss_of_batches(model), before);
}

/// A model whose adapters GoRA made with a gamma of 1, B turned around where `sign` is −1.
DecoderForCausalLM begun_at_one(bool dora, double sign = 1.0) {
  auto model = tiny_llama();
  auto options = beginning_with(gora(GoRAOptions().min_rank(1).max_rank(8).gamma(1.0)));
  options.low_rank().dora(dora);
  attach_adapters(*model, options, kDefaultAdapter, captured(model, options));
  at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : named_adapter_parameters(*model)) {
    if (name.ends_with("lora_B")) {
      at::Tensor(tensor).mul_(sign);
    }
  }
  return model;
}

class AdaptiveGamma : public ::testing::TestWithParam<bool> {};

TEST_P(AdaptiveGamma, IsTheOneOfLeastLossAndTheModelIsLeftWithIt) {
  auto base = tiny_llama();
  auto model = begun_at_one(GetParam());
  std::vector<double> losses;
  const GoRAGamma found = choose_gora_gamma(*model, 1.0, [&] {
    losses.push_back(loss_of_batches(model));
    return losses.back();
  });
  ASSERT_EQ(losses.size(), 53u);
  EXPECT_NEAR(losses[0], loss_of_batches(base), 1e-6);
  EXPECT_EQ(found.loss_before, losses[0]);
  const auto least = std::min_element(losses.begin() + 1, losses.end());
  EXPECT_LT(*least, losses[0]);
  EXPECT_EQ(found.loss, *least);
  EXPECT_DOUBLE_EQ(found.gamma, std::pow(0.8, static_cast<double>(least - losses.begin() - 1)));
  EXPECT_EQ(loss_of_batches(model), found.loss);

  // As if it had begun with that gamma.
  auto expected = tiny_llama();
  auto options = beginning_with(gora(GoRAOptions().min_rank(1).max_rank(8).gamma(found.gamma)));
  options.low_rank().dora(GetParam());
  attach_adapters(*expected, options, kDefaultAdapter, captured(expected, options));
  EXPECT_NEAR(loss_of_batches(expected), found.loss, 1e-5);
}

INSTANTIATE_TEST_SUITE_P(, AdaptiveGamma, ::testing::Bool(), [](const auto& info) {
  return info.param ? "OfDoRA" : "OfRoRA";
});

TEST(GoRA, WithTheOppositeSignTheAdaptiveGammaIsZeroAndTheModelTheBase) {
  auto base = tiny_llama();
  auto model = begun_at_one(/*dora=*/false, -1.0);
  const GoRAGamma found = choose_gora_gamma(*model, 1.0, [&] { return loss_of_batches(model); });
  EXPECT_EQ(found.gamma, 0.0);
  EXPECT_EQ(found.loss, found.loss_before);
  EXPECT_EQ(loss_of_batches(model), loss_of_batches(base));
  EXPECT_THROW(choose_gora_gamma(*model, 0.0, [] { return 0.0; }), c10::ValueError);
  EXPECT_THROW(choose_gora_gamma(*base, 1.0, [] { return 0.0; }), c10::ValueError);
}

} // namespace
} // namespace rora
