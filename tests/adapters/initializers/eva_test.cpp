#include "support.h"

#include <rora/adapters/initializers/eva.h>

#include <gmock/gmock.h>

#include <cmath>

namespace rora {
namespace {

using namespace rora::testing;
using ::testing::HasSubstr;

/// The statistics of inputs `[tokens, in]`.
WeightStatistics statistics_of(const at::Tensor& inputs) {
  const at::Tensor wide = inputs.to(at::kDouble);
  return {{}, wide.mean(0), wide.t().mm(wide) / static_cast<double>(wide.size(0))};
}

at::Tensor inputs_of(int64_t seed = 2) {
  at::manual_seed(seed);
  return at::randn({200, 12}) * at::pow(0.6, at::arange(12).to(at::kFloat)) + 3.0;
}

TEST(EVA, TakesTheDirectionsInWhichCentredInputsVaryMost) {
  Projection projection = graded_projection();
  const at::Tensor inputs = inputs_of();
  const auto adapter = begin(projection, LowRankOptions().rank(4).initializer(eva()), statistics_of(inputs));
  const at::Tensor a = adapter->lora_A.detach();
  EXPECT_LT(relative_error(a.mm(a.t()), at::eye(4)), 1e-5);
  EXPECT_EQ(adapter->lora_B.abs().max().item<double>(), 0.0);
  const auto [u, s, v] = at::linalg_svd(inputs - inputs.mean(0), /*full_matrices=*/false);
  const at::Tensor first = v.narrow(0, 0, 4);
  EXPECT_LT(relative_error(a.t().mm(a), first.t().mm(first)), 1e-4);
  WeightStatistics statistics = statistics_of(inputs);
  eva()->condense(*projection, 4, statistics);
  const at::Tensor ratios = statistics.condensed.at("explained_variance_ratio").to(at::kFloat);
  EXPECT_LT(relative_error(ratios, (s.square() / s.square().sum()).narrow(0, 0, 8)), 1e-4);
}

class EVAOfScaling : public ::testing::TestWithParam<Scaling> {};

TEST_P(EVAOfScaling, SharesAllRanksByTheVarianceThatDirectionsExplainAndKeepsTheScale) {
  auto model = tiny_llama();
  auto options = beginning_with(eva());
  options.low_rank(LowRankOptions(options.low_rank()).scaling(GetParam()));
  const auto modules = target_modules(*model, options);
  const auto statistics = captured(model, options);
  const auto attached = attach_adapters(*model, options, kDefaultAdapter, statistics);
  int64_t sum = 0;
  bool unlike = false;
  for (const std::string& module : attached) {
    const auto adapter = adapter_of(model, module);
    sum += adapter->options.rank();
    unlike = unlike || adapter->options.rank() != 4;
    EXPECT_NEAR(adapter->scale(), scaling_factor(GetParam(), 8, 4), 1e-12) << module;
  }
  EXPECT_EQ(sum, 4 * std::ssize(modules));
  EXPECT_TRUE(unlike);
  // One input, one set of directions.
  const std::string attention = "model.layers.1.self_attn.";
  const at::Tensor q = adapter_of(model, attention + "q_proj")->lora_A;
  EXPECT_TRUE(at::equal(adapter_of(model, attention + "k_proj")->lora_A, q));
  EXPECT_TRUE(at::equal(adapter_of(model, attention + "v_proj")->lora_A, q));
}

INSTANTIATE_TEST_SUITE_P(Each, EVAOfScaling, ::testing::Values(Scaling::kStandard, Scaling::kRankStabilized));

TEST(EVA, BeginsAsTheFrozenModel) {
  auto model = tiny_llama();
  const double before = loss_of_batches(model);
  const auto options = beginning_with(eva());
  attach_adapters(*model, options, kDefaultAdapter, captured(model, options));
  EXPECT_EQ(loss_of_batches(model), before);
}

TEST(EVA, LeavesAModuleThatExplainsLeastWithoutAnAdapter) {
  std::vector<WeightStatistics> statistics(2);
  statistics[0].condensed["explained_variance_ratio"] = at::tensor({0.6, 0.3}, at::kDouble);
  statistics[1].condensed["explained_variance_ratio"] = at::tensor({0.2, 0.1}, at::kDouble);
  const std::vector<RankCandidate> candidates{{"a", 4, 4, &statistics[0]}, {"b", 4, 4, &statistics[1]}};
  const auto chosen = eva()->choose_ranks(candidates, LowRankOptions().rank(1).alpha(2).scaling(Scaling::kStandard));
  EXPECT_EQ(chosen[0].rank, 2);
  EXPECT_EQ(chosen[0].alpha, 4.0);
  EXPECT_EQ(chosen[1].rank, 0);
}

TEST(EVA, TakesNoDirectionsOfRoundingAlone) {
  at::manual_seed(4);
  WeightStatistics statistics = statistics_of(at::randn({3, 12})); // which vary in two directions
  eva()->condense(*graded_projection(), 4, statistics);
  EXPECT_EQ(statistics.condensed.at("directions").size(0), 2);
  const std::vector<RankCandidate> candidates{{"a", 12, 10, &statistics}};
  EXPECT_EQ(eva()->choose_ranks(candidates, LowRankOptions().rank(2))[0].rank, 2);
  EXPECT_THAT(
      [&] { eva()->choose_ranks(candidates, LowRankOptions().rank(4)); },
      ::testing::ThrowsMessage<c10::ValueError>(HasSubstr("vary in 2 directions")));
}

TEST(EVA, RefusesInputsThatDoNotVary) {
  EXPECT_THAT(
      [] {
        begin(graded_projection(), LowRankOptions().rank(4).initializer(eva()), statistics_of(at::ones({5, 12})));
      },
      ::testing::ThrowsMessage<c10::ValueError>(HasSubstr("do not vary")));
  EXPECT_THROW(eva(0.5), c10::ValueError);
}

} // namespace
} // namespace rora
