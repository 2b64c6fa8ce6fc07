#include "theory_tables.h"

#include <cstdio>

namespace rora::cli {
namespace {

using theory::Change;
using theory::Estimate;
using theory::StepRule;

std::string fixed(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

std::string scientific(double value) {
  char text[64];
  std::snprintf(text, sizeof text, "%.3e", value);
  return text;
}

/// "1.003 ± 0.012".
std::string with_interval(const Estimate& estimate, int digits) {
  return fixed(estimate.value, digits) + " ± " + fixed(0.5 * (estimate.high - estimate.low), digits);
}

/// E[w²] of an output by SGD: what the paper's equations 8 and 9 are about.
examples::TitledTable second_moments(const TheoryReport& report) {
  examples::TitledTable result;
  result.title = "The second moment of an output after one step of SGD";
  result.text =
      "E[w²]/(η²δ²γ⁴σ⁴), σ² the variance of A. Exact: r·[‖x‖²‖x′‖² + (r + 1)(x·x′)² + κ·Σx²x′²] over standard normal x "
      "and x′. Equation 8: r·in², equation 9: r²·in. Monte Carlo with 95% intervals.";
  result.table.columns = {"inputs", "rank", "Monte Carlo", "exact", "equation 8", "equation 9"};
  result.table.words = {0};
  const double variance = report.options.entries().variance;
  const double unit = variance * variance * static_cast<double>(report.options.out_features());
  for (const Change change : {Change::kAlignedOutput, Change::kIndependentOutput}) {
    result.table.groups.push_back(result.table.rows.size());
    for (const theory::FirstStepMeasurement& each : report.measurements) {
      const theory::MeanSquare& moment = each.of(StepRule::kSgd, change);
      const double exact =
          theory::second_moment(StepRule::kSgd, change, report.options.size(), report.options.entries(), each.rank);
      const auto paper = [&](int64_t equation) {
        return scientific(theory::paper_second_moment(equation, report.options, each.rank) / (variance * variance));
      };
      const double half = theory::normal_quantile(0.975) * moment.standard_error / unit;
      result.table.rows.push_back(
          {change == Change::kAlignedOutput ? "aligned" : "independent", std::to_string(each.rank),
           scientific(moment.mean / unit) + " ± " + scientific(half), scientific(exact / unit), paper(8), paper(9)});
    }
  }
  return result;
}

examples::TitledTable closed_forms(const TheoryReport& report) {
  examples::TitledTable result;
  result.title = "The closed forms of mean squares";
  result.text =
      "Measured/closed form at the rank where it is farthest from 1; the intervals of all ranks together hold with "
      "99.9%.";
  result.table.columns = {"step", "change", "measured/exact", "at rank", "verdict"};
  result.table.words = {0, 1, 4};
  for (const theory::MomentTest& test : report.closed_forms) {
    result.table.rows.push_back(
        {step_name(test.rule), change_name(test.change), with_interval(test.ratios[test.farthest], 3),
         std::to_string(report.measurements[test.farthest].rank), verdict_text(test.verdict)});
  }
  return result;
}

examples::TitledTable exponents(const TheoryReport& report) {
  examples::TitledTable result;
  result.title = "Growth with the rank";
  result.text =
      "The power of r by which the change grows: predicted for 1 ≪ r ≪ in, the slope of the closed form over these "
      "ranks, "
      "and the fitted one with its 95% interval. It holds where the whole interval is within " +
      fixed(theory::kExponentTolerance, 1) + " of the predicted.";
  result.table.columns = {"step", "change", "γ", "predicted", "closed form", "fitted", "verdict"};
  result.table.words = {0, 1, 2, 6};
  result.table.swatch_column = 2;
  for (const theory::ExponentTest& test : report.exponents) {
    const size_t row = result.table.rows.size();
    if (row % theory::kRankScales.size() == 0) {
      result.table.groups.push_back(row);
    }
    result.table.swatches.push_back(row % theory::kRankScales.size());
    result.table.rows.push_back(
        {step_name(test.rule), change_name(test.change), test.scale.name, fixed(test.predicted, 2),
         fixed(test.closed_form, 3), with_interval(test.fitted, 3), verdict_text(test.verdict)});
  }
  return result;
}

examples::TitledTable paper(const TheoryReport& report) {
  examples::TitledTable result;
  result.title = "The paper's equations";
  result.text =
      "arXiv 2501.04315 derives them for SGD and independent inputs; with AdamW in its place where the step says so. 8 "
      "and "
      "9: measured/claimed at the rank where it is farthest from 1; the others: the fitted power of r.";
  result.table.columns = {"equation", "it says", "step", "claimed", "aligned", "independent", "verdict"};
  result.table.words = {0, 1, 2, 6};
  for (const theory::PaperClaim& claim : report.paper) {
    const auto shown = [&](const Estimate& estimate, int64_t rank) {
      return claim.is_exponent ? with_interval(estimate, 3)
                               : with_interval(estimate, 2) + " at r = " + std::to_string(rank);
    };
    if (claim.equation == "12-13") {
      result.table.groups.push_back(result.table.rows.size());
    }
    result.table.rows.push_back(
        {claim.equation, claim.statement, step_name(claim.rule), fixed(claim.claimed, 0),
         shown(claim.aligned, claim.aligned_rank), shown(claim.independent, claim.independent_rank),
         verdict_text(claim.verdict)});
  }
  return result;
}

examples::TitledTable invariant_scales(const TheoryReport& report) {
  examples::TitledTable result;
  result.title = "The scale that leaves a change the same at every rank";
  result.text = "The power of r that γ must have, as fitted, with its 95% interval.";
  result.table.columns = {"step", "change", "power", "scale"};
  result.table.words = {0, 1, 3};
  for (const theory::InvariantScale& found : report.invariant_scales) {
    result.table.rows.push_back(
        {step_name(found.rule), change_name(found.change), with_interval(found.exponent, 3),
         found.scale == nullptr ? "none of these" : found.scale->name});
  }
  return result;
}

} // namespace

const char* step_name(StepRule rule) {
  return rule == StepRule::kSgd ? "SGD" : "AdamW";
}

const char* change_name(Change change) {
  switch (change) {
    case Change::kAlignedOutput:
      return "‖ΔW·x‖, aligned";
    case Change::kIndependentOutput:
      return "‖ΔW·x′‖, independent";
    case Change::kWeight:
      break;
  }
  return "‖ΔW‖";
}

std::string theory_setting(const TheoryReport& report) {
  const theory::FirstStepOptions& options = report.options;
  return "One first step, B = 0, of a layer of " + std::to_string(options.in_features()) + " inputs and " +
      std::to_string(options.out_features()) + " outputs, drawn " + std::to_string(options.samples()) +
      " times a rank: A " +
      (options.initial_a() == theory::InitialA::kUniform ? "uniform in ±1/√in" : "standard normal") +
      ", and δ, x and x′ standard normal; seed " + std::to_string(options.seed()) + ".";
}

std::vector<examples::TitledTable> theory_tables(const TheoryReport& report) {
  return {second_moments(report), closed_forms(report), exponents(report), paper(report), invariant_scales(report)};
}

} // namespace rora::cli
