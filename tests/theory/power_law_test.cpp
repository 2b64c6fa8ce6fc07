#include <rora/theory/power_law.h>

#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace rora::theory {
namespace {

std::vector<PowerLawPoint> points_of(
    double exponent, double factor, const std::vector<double>& xs, double error = 0.0) {
  std::vector<PowerLawPoint> points;
  for (const double x : xs) {
    const double y = factor * std::pow(x, exponent);
    points.push_back({x, y, error * y});
  }
  return points;
}

const std::vector<double> kRanks{4, 8, 16, 32, 64, 128, 256};

TEST(Quantiles, AreThoseOfTables) {
  EXPECT_NEAR(normal_quantile(0.975), 1.959963985, 1e-8);
  EXPECT_NEAR(normal_quantile(0.025), -1.959963985, 1e-8);
  EXPECT_NEAR(normal_quantile(0.5), 0.0, 1e-12);
  EXPECT_NEAR(student_quantile(0.975, 1), 12.7062047, 1e-6);
  EXPECT_NEAR(student_quantile(0.975, 2), 4.30265273, 1e-7);
  EXPECT_NEAR(student_quantile(0.975, 3), 3.18244631, 1e-7);
  EXPECT_NEAR(student_quantile(0.975, 5), 2.57058184, 1e-7);
  EXPECT_NEAR(student_quantile(0.995, 10), 3.16927267, 1e-7);
  EXPECT_NEAR(student_quantile(0.975, 100000), normal_quantile(0.975), 1e-4);
}

TEST(PowerLaw, FindsWhatThePointsAre) {
  const PowerLaw law = fit_power_law(points_of(-0.5, 3.0, kRanks));
  EXPECT_NEAR(law.exponent, -0.5, 1e-12);
  EXPECT_NEAR(law.factor, 3.0, 1e-12);
  EXPECT_NEAR(law.high - law.low, 0.0, 1e-6);
  EXPECT_NEAR(law.at(9.0), 1.0, 1e-12);
}

// By hand: ln y = 0, 1, 3 at ln x = 0, 1, 2. The slope is 3/2, the residuals 1/6, −1/3, 1/6, so s² = 1/6 with one
// degree of freedom, and the slope's error √(1/6/2).
TEST(PowerLaw, ResidualsGiveStudentsInterval) {
  const PowerLaw law = fit_power_law({{1.0, 1.0}, {std::exp(1.0), std::exp(1.0)}, {std::exp(2.0), std::exp(3.0)}});
  EXPECT_NEAR(law.exponent, 1.5, 1e-12);
  EXPECT_NEAR(law.standard_error, std::sqrt(1.0 / 12.0), 1e-12);
  EXPECT_NEAR(law.high, 1.5 + 12.7062047 * std::sqrt(1.0 / 12.0), 1e-6);
}

// Two points of 10% at 1 and e²: the slope's error is √2·0.1/2.
TEST(PowerLaw, KnownErrorsGiveANormalsInterval) {
  const PowerLaw law = fit_power_law(points_of(2.0, 1.0, {1.0, std::exp(2.0)}, 0.1), 0.95);
  EXPECT_NEAR(law.standard_error, std::sqrt(2.0) * 0.05, 1e-12);
  EXPECT_NEAR(law.high - law.exponent, 1.959963985 * law.standard_error, 1e-8);
}

TEST(PowerLaw, TheIntervalHoldsTheExponentAsOftenAsItSays) {
  std::mt19937_64 generator(3);
  std::normal_distribution<double> normal;
  constexpr int kTrials = 2000;
  for (const bool known : {true, false}) {
    int held = 0;
    for (int i = 0; i < kTrials; ++i) {
      std::vector<PowerLawPoint> points = points_of(0.75, 2.0, kRanks, known ? 0.05 : 0.0);
      for (PowerLawPoint& point : points) {
        point.y *= std::exp(0.05 * normal(generator));
      }
      const PowerLaw law = fit_power_law(points, 0.9);
      held += law.low <= 0.75 && 0.75 <= law.high ? 1 : 0;
    }
    EXPECT_NEAR(static_cast<double>(held) / kTrials, 0.9, 0.03) << known; // four and a half standard errors
  }
}

TEST(PowerLaw, RefusesWhatHasNoSlope) {
  EXPECT_THROW(fit_power_law({}), c10::ValueError);
  EXPECT_THROW(fit_power_law(points_of(1.0, 1.0, {2.0, 2.0, 2.0})), c10::ValueError);
  EXPECT_THROW(fit_power_law(points_of(1.0, 1.0, {1.0, 2.0})), c10::ValueError);
  EXPECT_THROW(fit_power_law({{1.0, 1.0}, {2.0, 0.0}, {3.0, 1.0}}), c10::ValueError);
  EXPECT_THROW(fit_power_law({{1.0, 1.0, 0.1}, {2.0, 1.0}, {3.0, 1.0}}), c10::ValueError);
  EXPECT_THROW(fit_power_law(points_of(1.0, 1.0, kRanks), 1.0), c10::ValueError);
}

} // namespace
} // namespace rora::theory
