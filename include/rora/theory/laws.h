#pragma once

#include <rora/theory/first_step.h>
#include <rora/theory/first_step_sample.h>
#include <rora/theory/power_law.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace rora::theory {

/// What a measurement makes of a claim.
enum class Verdict {
  kHolds,
  kDoesNotHold,
  kHoldsForAlignedInputs, ///< for them only
  kHoldsForIndependentInputs, ///< for them only
  kUndecided, ///< the intervals are too wide: more samples or ranks would tell
};

const char* verdict_text(Verdict verdict);

/// A number and the interval that a verdict goes by.
struct Estimate {
  double value = 0.0;
  double low = 0.0;
  double high = 0.0;
};

/// How far from its exponent a law's fitted slope may be: the exponents that the scales give are ¼ apart, and ranks
/// that are finite bend the lines by up to 0.05 (r + 2 in the place of r) and by r/in.
inline constexpr double kExponentTolerance = 0.1;

/// The probability with which all intervals of a second moment's ranks together hold the true ones. High, as many
/// claims are tested side by side.
inline constexpr double kMomentConfidence = 0.999;

/// An interval of a ratio that reaches further than this from its middle decides nothing.
inline constexpr double kWidestRatio = 0.25;

/// Holds where the whole interval is within the tolerance of `claimed`, does not where all of it is outside.
Verdict judge_exponent(const Estimate& fitted, double claimed, double tolerance = kExponentTolerance);

/// Holds where every interval of measured/claimed holds 1, does not where one does not.
Verdict judge_ratios(const std::vector<Estimate>& ratios);

/// The verdict on a claim that is made for all inputs, from those for either kind.
Verdict judge_both(Verdict aligned, Verdict independent);

/// The growth of a change with the rank, fitted to the measured roots of mean squares and to those of the closed form
/// over the same ranks.
struct ExponentTest {
  StepRule rule = StepRule::kSgd;
  Change change = Change::kWeight;
  RankScale scale = kConstantScale;
  double predicted = 0.0; ///< `predicted_exponent`
  double closed_form = 0.0; ///< the slope of the closed form
  Estimate fitted; ///< with 95% intervals
  Verdict verdict = Verdict::kUndecided; ///< on `predicted`
};

/// One for each rule, change and scale. Throws `c10::ValueError` for fewer than three ranks.
std::vector<ExponentTest> test_exponents(
    const FirstStepOptions& options, const std::vector<FirstStepMeasurement>& measurements);

/// A measured mean square beside what is claimed of it, rank by rank.
struct MomentTest {
  StepRule rule = StepRule::kSgd;
  Change change = Change::kWeight;
  std::vector<Estimate> ratios; ///< measured/claimed
  size_t farthest = 0; ///< the rank whose ratio is the most standard errors from 1
  Verdict verdict = Verdict::kUndecided;
};

/// `claimed` is E‖·‖² at a rank, for η = γ = 1.
MomentTest test_moment(
    const std::vector<FirstStepMeasurement>& measurements, StepRule rule, Change change,
    const std::function<double(int64_t rank)>& claimed);

/// The closed forms, for each rule and change.
std::vector<MomentTest> test_closed_forms(
    const FirstStepOptions& options, const std::vector<FirstStepMeasurement>& measurements);

/// E[w²] of an output by the paper's equations 8 and 9, for η = γ = 1, δ and x of variance 1 and A of variance σ²
/// (which it takes for 1): σ⁴·r·in² and σ⁴·r²·in. The second does not follow from the first.
double paper_second_moment(int64_t equation, const FirstStepOptions& options, int64_t rank);

/// A statement of the paper, tested for aligned and for independent inputs.
struct PaperClaim {
  std::string equation; ///< "8"
  std::string statement;
  StepRule rule = StepRule::kSgd; ///< the paper derives it for SGD, and trains by AdamW
  bool is_exponent = false; ///< of r; otherwise the ratio of what is measured to what is claimed, which should be 1
  double claimed = 1.0;
  Estimate aligned; ///< of a ratio: at the rank where it is farthest from 1
  Estimate independent;
  int64_t aligned_rank = 0; ///< of a ratio
  int64_t independent_rank = 0;
  Verdict verdict = Verdict::kUndecided;
};

/// Equations 8, 9 and 12 to 15 for SGD, and 12 to 15 with AdamW in SGD's place.
std::vector<PaperClaim> test_paper(
    const FirstStepOptions& options, const std::vector<FirstStepMeasurement>& measurements);

/// The power of r that γ must have for a change to be the same at every rank, as measured, and the scale that has it.
struct InvariantScale {
  StepRule rule = StepRule::kSgd;
  Change change = Change::kWeight;
  Estimate exponent;
  const RankScale* scale = nullptr; ///< null where none of `kRankScales` holds
};

std::vector<InvariantScale> find_invariant_scales(const std::vector<ExponentTest>& tests);

} // namespace rora::theory
