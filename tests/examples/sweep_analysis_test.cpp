#include "rora/sweep_analysis.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace rora::cli {
namespace {

constexpr double kDiverged = std::numeric_limits<double>::infinity();

/// A report whose loss is curvature·(ln lr − ln best)² + lowest(seed), best = factor·rank^exponent.
SweepReport parabolas(double factor, double exponent, double seed_shift = 0.0) {
  SweepReport report;
  report.axes = read_axes({"lora", "rora"}, {"16"}, {"4", "16", "64"}, {"1e-4", "3e-4", "1e-3", "3e-3", "1e-2"}, 2, 1);
  for (const SweepRun& run : report.axes.runs()) {
    SweepResult result;
    result.run = run;
    const double power = run.method->name == "lora" ? exponent : 0.0;
    const double best = factor * std::pow(static_cast<double>(run.rank), power);
    const double distance = std::log(run.lr / best);
    result.reached.eval_loss = 1.0 + 0.1 * distance * distance + seed_shift * static_cast<double>(run.seed) +
        (run.method->name == "rora" ? -0.25 : 0.0);
    report.results.push_back(result);
  }
  return report;
}

TEST(SweepAxes, HaveEveryCombinationOnceSeedBySeed) {
  const SweepAxes axes = read_axes({"rora", "full"}, {"16", "2r"}, {"8", "4"}, {"1e-3", "1e-4"}, 2, 5);
  std::vector<std::string> names;
  for (const SweepRun& run : axes.runs()) {
    names.push_back(run.name());
  }
  EXPECT_EQ(names.size(), 2u * (2u * 2u * 2u + 2u)); // full has neither rank nor alpha
  EXPECT_EQ(names.front(), "rora-alpha16-r4-lr0.0001-seed5");
  EXPECT_EQ(names[2], "full-lr0.0001-seed5");
  EXPECT_EQ(names.back(), "rora-alpha2r-r8-lr0.001-seed6");
  EXPECT_EQ(axes.alphas[1].at(8), 16.0);
}

TEST(BestRate, IsTheLowestPointOfAParabola) {
  std::vector<LossAtRate> losses;
  for (const double lr : {1e-4, 4e-4, 1e-3, 5e-3}) {
    losses.push_back({lr, 2.0 + 0.3 * std::pow(std::log(lr / 7e-4), 2)});
  }
  const auto best = best_rate(losses);
  ASSERT_TRUE(best);
  EXPECT_NEAR(best->lr, 7e-4, 1e-12);
  EXPECT_EQ(best->index, 2u);
  EXPECT_FALSE(best->at_edge);
}

TEST(BestRate, AtAnEdgeOrBesideADivergedRunIsTheRateTried) {
  const auto edge = best_rate({{1e-4, 1.0}, {1e-3, 2.0}});
  EXPECT_TRUE(edge->at_edge);
  EXPECT_EQ(edge->lr, 1e-4);
  const auto beside = best_rate({{1e-4, 2.0}, {1e-3, 1.0}, {1e-2, kDiverged}});
  EXPECT_FALSE(beside->at_edge);
  EXPECT_EQ(beside->lr, 1e-3);
  EXPECT_FALSE(beside->interpolated);
  EXPECT_FALSE(best_rate({{1e-4, kDiverged}}));
  EXPECT_FALSE(best_rate({}));
}

TEST(RateBand, EndsWhereTheLossCrossesTheLimit) {
  const std::vector<LossAtRate> losses{{1e-4, 1.4}, {1e-3, 1.0}, {1e-2, 1.2}, {1e-1, kDiverged}};
  const auto band = rate_band(losses, 0.1);
  ASSERT_TRUE(band);
  EXPECT_NEAR(std::log10(band->low), -3.25, 1e-9); // a quarter of the way to 1.4
  EXPECT_NEAR(std::log10(band->high), -2.5, 1e-9); // half of the way to 1.2
  EXPECT_FALSE(band->open_low || band->open_high);
  const auto wide = rate_band(losses, 0.3);
  EXPECT_NEAR(wide->high, 1e-2, 1e-12); // a diverged run bounds it
  EXPECT_FALSE(wide->open_high);
  EXPECT_TRUE(rate_band(losses, 1.0)->open_low);
}

TEST(RateDrift, FindsThePowerOfTheRank) {
  const SweepReport report = parabolas(2e-3, -0.5);
  const std::vector<RateDrift> drifts = rate_drifts(report);
  ASSERT_EQ(drifts.size(), 2u);
  EXPECT_EQ(drifts[0].method->name, "lora");
  ASSERT_TRUE(drifts[0].exponent && drifts[1].exponent);
  EXPECT_NEAR(drifts[0].exponent->value, -0.5, 1e-9);
  EXPECT_EQ(drifts[0].in_place, theory::Verdict::kDoesNotHold);
  EXPECT_NEAR(drifts[1].exponent->value, 0.0, 1e-9);
  EXPECT_EQ(drifts[1].in_place, theory::Verdict::kHolds);
  EXPECT_EQ(drifts[0].best.size() + static_cast<size_t>(drifts[0].left_out), 6u);
}

TEST(RateDrift, LeavesOutWhatIsAtTheEdge) {
  const SweepReport report = parabolas(1e-5, 0.0);
  const std::vector<RateDrift> drifts = rate_drifts(report);
  EXPECT_EQ(drifts[0].left_out, 6);
  EXPECT_TRUE(drifts[0].best.empty());
  EXPECT_FALSE(drifts[0].exponent);
}

TEST(Differences, PairSeedsAtEachOnesBestRate) {
  const SweepReport report = parabolas(1e-3, 0.0, /*seed_shift=*/0.5);
  const std::vector<Difference> all = differences(report, metrics({})[0]);
  ASSERT_EQ(all.size(), 3u); // a rank each
  for (const Difference& each : all) {
    EXPECT_EQ(each.method->name, "rora");
    EXPECT_EQ(each.reference->name, "lora");
    EXPECT_NEAR(each.estimate.value, -0.25, 1e-12);
    EXPECT_NEAR(each.estimate.high, -0.25, 1e-9); // what seeds have in common goes out
  }
}

TEST(Mean, HasItsStandardError) {
  const Mean mean = mean_of({1.0, 2.0, 3.0, 4.0});
  EXPECT_EQ(mean.value, 2.5);
  EXPECT_NEAR(mean.standard_error, std::sqrt(5.0 / 3.0 / 4.0), 1e-12);
  EXPECT_TRUE(std::isnan(mean_of({}).value));
  EXPECT_EQ(mean_of({3.0}).standard_error, 0.0);
}

} // namespace
} // namespace rora::cli
