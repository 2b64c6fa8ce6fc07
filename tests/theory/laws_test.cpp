#include <rora/theory/laws.h>

#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace rora::theory {
namespace {

FirstStepOptions small() {
  return FirstStepOptions().in_features(256).out_features(8).samples(1500).seed(11);
}

const std::vector<FirstStepMeasurement>& measured() {
  static const std::vector<FirstStepMeasurement> all = [] {
    std::vector<FirstStepMeasurement> measurements;
    for (const int64_t rank : {4, 8, 16, 32, 64}) {
      measurements.push_back(measure_first_step(small(), rank));
    }
    return measurements;
  }();
  return all;
}

/// The measurement with a change that grows by another power of r than it does.
std::vector<FirstStepMeasurement> broken(StepRule rule, Change change, double power) {
  std::vector<FirstStepMeasurement> measurements = measured();
  for (FirstStepMeasurement& each : measurements) {
    MeanSquare& moment = each.moments[static_cast<size_t>(rule)][static_cast<size_t>(change)];
    const double factor = std::pow(static_cast<double>(each.rank), 2.0 * power);
    moment.mean *= factor;
    moment.standard_error *= factor;
  }
  return measurements;
}

const ExponentTest& find(const std::vector<ExponentTest>& tests, StepRule rule, Change change, const RankScale& scale) {
  return *std::find_if(tests.begin(), tests.end(), [&](const ExponentTest& test) {
    return test.rule == rule && test.change == change && test.scale.exponent == scale.exponent;
  });
}

TEST(Verdicts, OfExponentsGoByTheWholeInterval) {
  EXPECT_EQ(judge_exponent({-0.98, -0.99, -0.97}, -1.0), Verdict::kHolds);
  EXPECT_EQ(judge_exponent({-0.5, -0.52, -0.48}, -1.0), Verdict::kDoesNotHold);
  EXPECT_EQ(judge_exponent({-0.95, -1.3, -0.6}, -1.0), Verdict::kUndecided);
  EXPECT_EQ(judge_exponent({-0.9, -0.92, -0.88}, -1.0), Verdict::kUndecided);
}

TEST(Verdicts, OfRatiosGoByTheWorst) {
  EXPECT_EQ(judge_ratios({{1.02, 0.95, 1.1}, {0.97, 0.9, 1.04}}), Verdict::kHolds);
  EXPECT_EQ(judge_ratios({{1.02, 0.95, 1.1}, {1.2, 1.1, 1.3}}), Verdict::kDoesNotHold);
  EXPECT_EQ(judge_ratios({{1.02, 0.95, 1.1}, {1.0, 0.3, 1.7}}), Verdict::kUndecided);
}

TEST(Verdicts, OfBothInputsSayForWhich) {
  EXPECT_EQ(judge_both(Verdict::kHolds, Verdict::kHolds), Verdict::kHolds);
  EXPECT_EQ(judge_both(Verdict::kHolds, Verdict::kDoesNotHold), Verdict::kHoldsForAlignedInputs);
  EXPECT_EQ(judge_both(Verdict::kDoesNotHold, Verdict::kHolds), Verdict::kHoldsForIndependentInputs);
  EXPECT_EQ(judge_both(Verdict::kDoesNotHold, Verdict::kDoesNotHold), Verdict::kDoesNotHold);
  EXPECT_EQ(judge_both(Verdict::kHolds, Verdict::kUndecided), Verdict::kUndecided);
  EXPECT_STREQ(verdict_text(Verdict::kHoldsForAlignedInputs), "holds for aligned inputs only");
}

TEST(ClosedForms, HoldAndAWrongOneDoesNot) {
  for (const MomentTest& test : test_closed_forms(small(), measured())) {
    EXPECT_EQ(test.verdict, Verdict::kHolds) << static_cast<int>(test.rule) << " " << static_cast<int>(test.change);
  }
  const MomentTest wrong = test_moment(measured(), StepRule::kSgd, Change::kIndependentOutput, [](int64_t rank) {
    return 1.3 * second_moment(StepRule::kSgd, Change::kIndependentOutput, small().size(), small().entries(), rank);
  });
  EXPECT_EQ(wrong.verdict, Verdict::kDoesNotHold);
}

// These ranks are far enough below in = 256 for r ≪ in to hold to the tolerance.
TEST(Exponents, AreThePredictedOnes) {
  const auto tests = test_exponents(small(), measured());
  EXPECT_EQ(tests.size(), 24u);
  for (const ExponentTest& test : tests) {
    EXPECT_EQ(test.verdict, Verdict::kHolds) << static_cast<int>(test.rule) << " " << static_cast<int>(test.change)
                                             << " " << test.scale.name << " " << test.fitted.value;
    EXPECT_LE(test.fitted.low - 0.01, test.closed_form);
    EXPECT_GE(test.fitted.high + 0.01, test.closed_form);
  }
}

TEST(Exponents, AWrongOneIsCaught) {
  for (const StepRule rule : kStepRules) {
    for (const Change change : kChanges) {
      const auto tests = test_exponents(small(), broken(rule, change, 0.25));
      for (const ExponentTest& test : tests) {
        const bool is_broken = test.rule == rule && test.change == change;
        EXPECT_EQ(test.verdict, is_broken ? Verdict::kDoesNotHold : Verdict::kHolds);
      }
    }
  }
}

// Ranks beyond in: independent inputs leave their law, and the verdict says so.
TEST(Exponents, DoNotHoldWhereRanksAreNotFarBelowTheWidth) {
  const auto options = FirstStepOptions().in_features(8).out_features(8).samples(1500);
  std::vector<FirstStepMeasurement> measurements;
  for (const int64_t rank : {16, 32, 64}) {
    measurements.push_back(measure_first_step(options, rank));
  }
  const auto tests = test_exponents(options, measurements);
  const ExponentTest& test = find(tests, StepRule::kSgd, Change::kIndependentOutput, kConstantScale);
  EXPECT_EQ(test.verdict, Verdict::kDoesNotHold) << test.fitted.value;
}

TEST(Exponents, AreNotDecidedByAFewSamples) {
  std::vector<FirstStepMeasurement> measurements;
  for (const int64_t rank : {4, 5, 6}) {
    measurements.push_back(measure_first_step(small().samples(100), rank));
  }
  for (const ExponentTest& test : test_exponents(small(), measurements)) {
    if (test.change == Change::kIndependentOutput) {
      EXPECT_EQ(test.verdict, Verdict::kUndecided);
    }
  }
  for (const PaperClaim& claim : test_paper(small(), measurements)) {
    EXPECT_TRUE(!claim.is_exponent || claim.verdict == Verdict::kUndecided);
  }
}

Verdict verdict_of(const std::vector<PaperClaim>& claims, const std::string& equation, StepRule rule) {
  for (const PaperClaim& claim : claims) {
    if (claim.equation == equation && claim.rule == rule) {
      return claim.verdict;
    }
  }
  return Verdict::kUndecided;
}

TEST(Paper, ItsGrowthIsThatOfAlignedInputs) {
  const auto claims = test_paper(small(), measured());
  EXPECT_EQ(verdict_of(claims, "8", StepRule::kSgd), Verdict::kDoesNotHold);
  EXPECT_EQ(verdict_of(claims, "9", StepRule::kSgd), Verdict::kDoesNotHold);
  EXPECT_EQ(verdict_of(claims, "12-13", StepRule::kSgd), Verdict::kHoldsForAlignedInputs);
  EXPECT_EQ(verdict_of(claims, "14", StepRule::kSgd), Verdict::kHoldsForAlignedInputs);
  EXPECT_EQ(verdict_of(claims, "15", StepRule::kSgd), Verdict::kHoldsForAlignedInputs);
  EXPECT_EQ(verdict_of(claims, "12-13", StepRule::kAdamW), Verdict::kHoldsForAlignedInputs);
  EXPECT_EQ(verdict_of(claims, "14", StepRule::kAdamW), Verdict::kDoesNotHold);
  EXPECT_EQ(verdict_of(claims, "15", StepRule::kAdamW), Verdict::kHoldsForIndependentInputs);
}

TEST(Paper, AnotherGrowthWouldChangeItsVerdicts) {
  const auto claims = test_paper(small(), broken(StepRule::kSgd, Change::kAlignedOutput, -0.5));
  EXPECT_EQ(verdict_of(claims, "15", StepRule::kSgd), Verdict::kDoesNotHold);
  const auto others = test_paper(small(), broken(StepRule::kSgd, Change::kIndependentOutput, 0.5));
  EXPECT_EQ(verdict_of(others, "15", StepRule::kSgd), Verdict::kHolds);
}

TEST(InvariantScales, AreFoundForEachStepAndChange) {
  for (const InvariantScale& found : find_invariant_scales(test_exponents(small(), measured()))) {
    ASSERT_NE(found.scale, nullptr) << found.exponent.value;
    const bool aligned = found.change == Change::kAlignedOutput;
    const bool sgd = found.rule == StepRule::kSgd;
    const RankScale& expected = sgd ? (aligned ? kRoraScale : kQuarterScale) : (aligned ? kLoraScale : kRoraScale);
    EXPECT_EQ(found.scale->exponent, expected.exponent);
  }
}

TEST(Laws, NeedThreeRanksForASlope) {
  const std::vector<FirstStepMeasurement> two(measured().begin(), measured().begin() + 2);
  EXPECT_THROW(test_exponents(small(), two), c10::ValueError);
}

} // namespace
} // namespace rora::theory
