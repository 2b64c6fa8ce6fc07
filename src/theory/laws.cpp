#include <rora/theory/laws.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>

namespace rora::theory {
namespace {

/// The root of a mean square where γ is a scale's, α = 1.
PowerLawPoint scaled(int64_t rank, const MeanSquare& moment, StepRule rule, const RankScale& scale) {
  const double factor = std::pow(scale.factor(1.0, rank), static_cast<double>(powers_of_scale(rule)));
  return {static_cast<double>(rank), factor * moment.root(), factor * moment.root_standard_error()};
}

ExponentTest test_exponent(
    const FirstStepOptions& options, const std::vector<FirstStepMeasurement>& measurements, StepRule rule,
    Change change, const RankScale& scale) {
  std::vector<PowerLawPoint> measured;
  std::vector<PowerLawPoint> exact;
  for (const FirstStepMeasurement& each : measurements) {
    measured.push_back(scaled(each.rank, each.of(rule, change), rule, scale));
    const double moment = second_moment(rule, change, options.size(), options.entries(), each.rank);
    exact.push_back(scaled(each.rank, {moment, 0.0}, rule, scale));
  }
  const PowerLaw law = fit_power_law(measured);
  ExponentTest test;
  test.rule = rule;
  test.change = change;
  test.scale = scale;
  test.predicted = predicted_exponent(rule, change, scale);
  test.closed_form = fit_power_law(exact).exponent;
  test.fitted = {law.exponent, law.low, law.high};
  test.verdict = judge_exponent(test.fitted, test.predicted);
  return test;
}

PaperClaim claim_of_moment(
    int64_t equation, const std::string& statement, const FirstStepOptions& options,
    const std::vector<FirstStepMeasurement>& measurements) {
  const auto test = [&](Change change) {
    return test_moment(measurements, StepRule::kSgd, change, [&](int64_t rank) {
      return static_cast<double>(options.out_features()) * paper_second_moment(equation, options, rank);
    });
  };
  const MomentTest aligned = test(Change::kAlignedOutput);
  const MomentTest independent = test(Change::kIndependentOutput);
  PaperClaim claim;
  claim.equation = std::to_string(equation);
  claim.statement = statement;
  claim.aligned = aligned.ratios[aligned.farthest];
  claim.aligned_rank = measurements[aligned.farthest].rank;
  claim.independent = independent.ratios[independent.farthest];
  claim.independent_rank = measurements[independent.farthest].rank;
  claim.verdict = judge_both(aligned.verdict, independent.verdict);
  return claim;
}

PaperClaim claim_of_exponent(
    const std::string& equation, const std::string& statement, StepRule rule, const RankScale& scale, double claimed,
    const FirstStepOptions& options, const std::vector<FirstStepMeasurement>& measurements) {
  PaperClaim claim;
  claim.equation = equation;
  claim.statement = statement;
  claim.rule = rule;
  claim.is_exponent = true;
  claim.claimed = claimed;
  claim.aligned = test_exponent(options, measurements, rule, Change::kAlignedOutput, scale).fitted;
  claim.independent = test_exponent(options, measurements, rule, Change::kIndependentOutput, scale).fitted;
  claim.verdict = judge_both(judge_exponent(claim.aligned, claimed), judge_exponent(claim.independent, claimed));
  return claim;
}

} // namespace

const char* verdict_text(Verdict verdict) {
  switch (verdict) {
    case Verdict::kHolds:
      return "holds";
    case Verdict::kDoesNotHold:
      return "does not hold";
    case Verdict::kHoldsForAlignedInputs:
      return "holds for aligned inputs only";
    case Verdict::kHoldsForIndependentInputs:
      return "holds for independent inputs only";
    case Verdict::kUndecided:
      break;
  }
  return "not decided: the interval is too wide";
}

Verdict judge_exponent(const Estimate& fitted, double claimed, double tolerance) {
  if (fitted.low >= claimed - tolerance && fitted.high <= claimed + tolerance) {
    return Verdict::kHolds;
  }
  return fitted.low > claimed + tolerance || fitted.high < claimed - tolerance ? Verdict::kDoesNotHold
                                                                               : Verdict::kUndecided;
}

Verdict judge_ratios(const std::vector<Estimate>& ratios) {
  Verdict verdict = Verdict::kHolds;
  for (const Estimate& ratio : ratios) {
    if (!(ratio.low <= 1.0 && ratio.high >= 1.0)) {
      return Verdict::kDoesNotHold;
    }
    if (ratio.high - ratio.low > 2.0 * kWidestRatio) {
      verdict = Verdict::kUndecided;
    }
  }
  return verdict;
}

Verdict judge_both(Verdict aligned, Verdict independent) {
  if (aligned == Verdict::kUndecided || independent == Verdict::kUndecided) {
    return Verdict::kUndecided;
  }
  if (aligned == independent) {
    return aligned;
  }
  return aligned == Verdict::kHolds ? Verdict::kHoldsForAlignedInputs : Verdict::kHoldsForIndependentInputs;
}

std::vector<ExponentTest> test_exponents(
    const FirstStepOptions& options, const std::vector<FirstStepMeasurement>& measurements) {
  std::vector<ExponentTest> tests;
  for (const StepRule rule : kStepRules) {
    for (const Change change : kChanges) {
      for (const RankScale& scale : kRankScales) {
        tests.push_back(test_exponent(options, measurements, rule, change, scale));
      }
    }
  }
  return tests;
}

MomentTest test_moment(
    const std::vector<FirstStepMeasurement>& measurements, StepRule rule, Change change,
    const std::function<double(int64_t rank)>& claimed) {
  TORCH_CHECK_VALUE(!measurements.empty(), "there is nothing measured");
  // All intervals together hold with the confidence where each alone misses with this share of the rest (Bonferroni).
  const double missed = (1.0 - kMomentConfidence) / static_cast<double>(measurements.size());
  const double width = normal_quantile(1.0 - 0.5 * missed);
  MomentTest test;
  test.rule = rule;
  test.change = change;
  double farthest = -1.0;
  for (const FirstStepMeasurement& each : measurements) {
    const MeanSquare& moment = each.of(rule, change);
    const double expected = claimed(each.rank);
    const double ratio = moment.mean / expected;
    const double error = moment.standard_error / expected;
    test.ratios.push_back({ratio, ratio - width * error, ratio + width * error});
    if (const double distance = std::abs(ratio - 1.0) / error; distance > farthest) {
      farthest = distance;
      test.farthest = test.ratios.size() - 1;
    }
  }
  test.verdict = judge_ratios(test.ratios);
  return test;
}

std::vector<MomentTest> test_closed_forms(
    const FirstStepOptions& options, const std::vector<FirstStepMeasurement>& measurements) {
  std::vector<MomentTest> tests;
  for (const StepRule rule : kStepRules) {
    for (const Change change : kChanges) {
      tests.push_back(test_moment(measurements, rule, change, [&](int64_t rank) {
        return second_moment(rule, change, options.size(), options.entries(), rank);
      }));
    }
  }
  return tests;
}

double paper_second_moment(int64_t equation, const FirstStepOptions& options, int64_t rank) {
  TORCH_CHECK_VALUE(equation == 8 || equation == 9, "equation ", equation, " gives no second moment");
  const double variance = options.entries().variance;
  const auto in = static_cast<double>(options.in_features());
  const auto r = static_cast<double>(rank);
  return variance * variance * (equation == 8 ? r * in * in : r * r * in);
}

std::vector<PaperClaim> test_paper(
    const FirstStepOptions& options, const std::vector<FirstStepMeasurement>& measurements) {
  std::vector<PaperClaim> claims{
      claim_of_moment(8, "E[w²] = η²δ²γ⁴·r·in²", options, measurements),
      claim_of_moment(9, "E[w²] = η²δ²γ⁴·r²·in", options, measurements)};
  for (const StepRule rule : kStepRules) {
    claims.push_back(
        claim_of_exponent("12-13", "‖w‖ ∝ r at a fixed γ", rule, kConstantScale, 1.0, options, measurements));
    claims.push_back(claim_of_exponent("14", "‖w‖ ∝ 1/r with γ = α/r", rule, kLoraScale, -1.0, options, measurements));
    claims.push_back(
        claim_of_exponent("15", "‖w‖ independent of r with γ = α/√r", rule, kRoraScale, 0.0, options, measurements));
  }
  return claims;
}

std::vector<InvariantScale> find_invariant_scales(const std::vector<ExponentTest>& tests) {
  std::vector<InvariantScale> found;
  for (const ExponentTest& test : tests) {
    if (test.scale.exponent != kConstantScale.exponent) {
      continue;
    }
    const auto powers = static_cast<double>(powers_of_scale(test.rule));
    InvariantScale invariant;
    invariant.rule = test.rule;
    invariant.change = test.change;
    invariant.exponent = {-test.fitted.value / powers, -test.fitted.high / powers, -test.fitted.low / powers};
    for (const RankScale& scale : kRankScales) {
      if (judge_exponent(invariant.exponent, scale.exponent, kExponentTolerance / powers) == Verdict::kHolds) {
        invariant.scale = &scale;
      }
    }
    found.push_back(invariant);
  }
  return found;
}

} // namespace rora::theory
