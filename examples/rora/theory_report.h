#pragma once

#include "flags.h"
#include "theory_training.h"

#include <rora/theory/laws.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace rora::cli {

/// All that `rora theory` tells of the first step.
struct TheoryReport {
  theory::FirstStepOptions options;
  double alpha = 16.0;
  std::vector<theory::FirstStepMeasurement> measurements; ///< by rank
  std::vector<theory::MomentTest> closed_forms;
  std::vector<theory::ExponentTest> exponents;
  std::vector<theory::PaperClaim> paper;
  std::vector<theory::InvariantScale> invariant_scales;
  std::optional<ModelGrowth> growth; ///< where a model was trained
};

/// Tests all laws on the measurements.
TheoryReport make_theory_report(
    const theory::FirstStepOptions& options, double alpha, std::vector<theory::FirstStepMeasurement> measurements);

/// The tables for a terminal.
std::string theory_text(const TheoryReport& report);

/// A line for each step, change, scale and rank: what was measured and what the closed form says, for η = 1.
std::string theory_csv(const TheoryReport& report);

/// All numbers and verdicts.
Json theory_json(const TheoryReport& report);

/// One page with the tables and, for each step and change, a figure.
std::string theory_html(const TheoryReport& report);

} // namespace rora::cli
