#include "theory_report.h"

#include "theory_tables.h"
#include "theory_training_report.h"

#include "common/svg_plot.h"

#include <cmath>
#include <cstdio>

namespace rora::cli {
namespace {

using theory::Change;
using theory::Estimate;
using theory::PowerLawPoint;
using theory::RankScale;
using theory::StepRule;

// Okabe and Ito's colours, which colour-blind readers tell apart; brighter ones for dark pages.
const std::vector<examples::LegendEntry> kScaleLegend{
    {theory::kLoraScale.name, "#0072B2", "#56B4E9", "7 4", examples::Marker::kSquare},
    {theory::kRoraScale.name, "#D55E00", "#FF8A3D", "", examples::Marker::kCircle},
    {theory::kQuarterScale.name, "#008a64", "#2FC79B", "2 4", examples::Marker::kTriangle},
    {theory::kConstantScale.name, "#a0518a", "#E39BCB", "10 3 2 3", examples::Marker::kSquare}};

/// What was measured and what the closed form says, for η = 1 and γ of the scale.
struct ScaledChange {
  PowerLawPoint measured;
  double closed_form = 0.0;
};

ScaledChange scaled_change(
    const TheoryReport& report, const theory::FirstStepMeasurement& measurement, StepRule rule, Change change,
    const RankScale& scale) {
  const double factor =
      std::pow(scale.factor(report.alpha, measurement.rank), static_cast<double>(theory::powers_of_scale(rule)));
  const theory::MeanSquare& moment = measurement.of(rule, change);
  const double exact =
      theory::second_moment(rule, change, report.options.size(), report.options.entries(), measurement.rank);
  return {
      {static_cast<double>(measurement.rank), factor * moment.root(), factor * moment.root_standard_error()},
      factor * std::sqrt(exact)};
}

Json estimate_json(const Estimate& estimate) {
  return {{"value", estimate.value}, {"low", estimate.low}, {"high", estimate.high}};
}

const char* key_of(StepRule rule) {
  return rule == StepRule::kSgd ? "sgd" : "adamw";
}

const char* key_of(Change change) {
  switch (change) {
    case Change::kAlignedOutput:
      return "aligned_output";
    case Change::kIndependentOutput:
      return "independent_output";
    case Change::kWeight:
      break;
  }
  return "weight";
}

std::string with_sign(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%+.2f", value);
  return text;
}

/// The measured changes with their 95% intervals, over lines of the predicted powers.
std::string figure(const TheoryReport& report, StepRule rule, Change change) {
  examples::Figure figure;
  figure.width = 440.0;
  figure.height = 400.0;
  figure.description = std::string(step_name(rule)) + ": " + change_name(change) + " against the rank for each scale";
  figure.x = {.label = "rank", .logarithmic = true};
  figure.y = {.label = std::string(change_name(change)) + ", per η", .logarithmic = true};
  figure.legend = kScaleLegend;
  for (const theory::FirstStepMeasurement& each : report.measurements) {
    figure.x.ticks.push_back(static_cast<double>(each.rank));
  }
  examples::Panel panel;
  const theory::FirstStepMeasurement& middle = report.measurements[report.measurements.size() / 2];
  for (size_t i = 0; i < theory::kRankScales.size(); ++i) {
    const RankScale& scale = theory::kRankScales[i];
    examples::Series predicted{{}, i};
    examples::Series measured{{}, i, /*markers=*/true};
    measured.joined = false;
    const double anchor = scaled_change(report, middle, rule, change, scale).closed_form;
    const double exponent = theory::predicted_exponent(rule, change, scale);
    for (const theory::FirstStepMeasurement& each : report.measurements) {
      const ScaledChange point = scaled_change(report, each, rule, change, scale);
      measured.points.push_back(
          {point.measured.x, point.measured.y, theory::normal_quantile(0.975) * point.measured.standard_error});
      const double steps = static_cast<double>(each.rank) / static_cast<double>(middle.rank);
      predicted.points.push_back({point.measured.x, anchor * std::pow(steps, exponent)});
    }
    panel.series.push_back(predicted);
    panel.series.push_back(measured);
  }
  for (const theory::ExponentTest& test : report.exponents) {
    for (size_t i = 0; i < theory::kRankScales.size(); ++i) {
      if (test.rule == rule && test.change == change && test.scale.exponent == theory::kRankScales[i].exponent) {
        figure.legend[i].name +=
            ": fitted " + with_sign(test.fitted.value) + ", predicted " + with_sign(test.predicted);
      }
    }
  }
  figure.panels.push_back(panel);
  return render_svg(figure);
}

std::vector<examples::TitledTable> all_tables(const TheoryReport& report) {
  std::vector<examples::TitledTable> tables = theory_tables(report);
  if (report.growth) {
    const std::vector<examples::TitledTable> more = growth_tables(*report.growth);
    tables.insert(tables.end(), more.begin(), more.end());
  }
  return tables;
}

} // namespace

TheoryReport make_theory_report(
    const theory::FirstStepOptions& options, double alpha, std::vector<theory::FirstStepMeasurement> measurements) {
  TheoryReport report;
  report.options = options;
  report.alpha = alpha;
  report.measurements = std::move(measurements);
  report.closed_forms = theory::test_closed_forms(options, report.measurements);
  report.exponents = theory::test_exponents(options, report.measurements);
  report.paper = theory::test_paper(options, report.measurements);
  report.invariant_scales = theory::find_invariant_scales(report.exponents);
  return report;
}

std::string theory_text(const TheoryReport& report) {
  std::string text = theory_setting(report) + "\n";
  for (const examples::TitledTable& each : all_tables(report)) {
    text += text_section(each);
  }
  return text;
}

std::string theory_csv(const TheoryReport& report) {
  std::string csv = "step,change,scale_exponent,rank,scale,measured,standard_error,closed_form,predicted_exponent\n";
  for (const StepRule rule : theory::kStepRules) {
    for (const Change change : theory::kChanges) {
      for (const RankScale& scale : theory::kRankScales) {
        for (const theory::FirstStepMeasurement& each : report.measurements) {
          const ScaledChange point = scaled_change(report, each, rule, change, scale);
          csv += std::string(key_of(rule)) + "," + key_of(change) + "," + Json(scale.exponent).dump() + "," +
              std::to_string(each.rank);
          for (const double number :
               {scale.factor(report.alpha, each.rank), point.measured.y, point.measured.standard_error,
                point.closed_form, theory::predicted_exponent(rule, change, scale)}) {
            csv += ',';
            csv += Json(number).dump();
          }
          csv += "\n";
        }
      }
    }
  }
  return csv;
}

Json theory_json(const TheoryReport& report) {
  const theory::FirstStepOptions& options = report.options;
  Json json;
  json["in_features"] = options.in_features();
  json["out_features"] = options.out_features();
  json["initial_a"] = options.initial_a() == theory::InitialA::kUniform ? "uniform" : "normal";
  json["samples"] = options.samples();
  json["seed"] = options.seed();
  json["alpha"] = report.alpha;
  for (const theory::FirstStepMeasurement& each : report.measurements) {
    json["ranks"].push_back(each.rank);
  }
  for (const theory::MomentTest& test : report.closed_forms) {
    Json entry{{"step", key_of(test.rule)}, {"change", key_of(test.change)}, {"verdict", verdict_text(test.verdict)}};
    for (size_t i = 0; i < report.measurements.size(); ++i) {
      const theory::MeanSquare& moment = report.measurements[i].of(test.rule, test.change);
      entry["ranks"].push_back(
          {{"rank", report.measurements[i].rank},
           {"mean_square", moment.mean},
           {"standard_error", moment.standard_error},
           {"closed_form",
            theory::second_moment(
                test.rule, test.change, options.size(), options.entries(), report.measurements[i].rank)},
           {"ratio", estimate_json(test.ratios[i])}});
    }
    json["closed_forms"].push_back(entry);
  }
  for (const theory::ExponentTest& test : report.exponents) {
    json["exponents"].push_back(
        {{"step", key_of(test.rule)},
         {"change", key_of(test.change)},
         {"scale_exponent", test.scale.exponent},
         {"predicted", test.predicted},
         {"closed_form", test.closed_form},
         {"fitted", estimate_json(test.fitted)},
         {"verdict", verdict_text(test.verdict)}});
  }
  for (const theory::PaperClaim& claim : report.paper) {
    json["paper"].push_back(
        {{"equation", claim.equation},
         {"statement", claim.statement},
         {"step", key_of(claim.rule)},
         {"number", claim.is_exponent ? "exponent" : "measured/claimed"},
         {"claimed", claim.claimed},
         {"aligned", estimate_json(claim.aligned)},
         {"independent", estimate_json(claim.independent)},
         {"verdict", verdict_text(claim.verdict)}});
  }
  for (const theory::InvariantScale& found : report.invariant_scales) {
    json["invariant_scales"].push_back(
        {{"step", key_of(found.rule)},
         {"change", key_of(found.change)},
         {"exponent", estimate_json(found.exponent)},
         {"scale_exponent", found.scale == nullptr ? Json(nullptr) : Json(found.scale->exponent)}});
  }
  if (report.growth) {
    json["training"] = growth_json(*report.growth);
  }
  return json;
}

std::string theory_html(const TheoryReport& report) {
  std::string html = "<main class=\"wide\">\n<h1>How a first step grows with the rank</h1>\n<p>" +
      examples::escape_markup(theory_setting(report)) +
      "</p>\n<p>By SGD ΔW = −η·γ²·δ·(AᵀAx)ᵀ, by AdamW ΔW = −η·γ·sign(δ)·(Aᵀ·sign(Ax))ᵀ. Aligned: the change of the "
      "output "
      "at the step's own input x; independent: at another input x′.</p>\n";
  for (const StepRule rule : theory::kStepRules) {
    html += std::string("<section>\n<h2>") + step_name(rule) +
        "</h2>\n<p class=\"soft\">Marks: measured, root of the mean square, with 95% intervals. Lines: the predicted "
        "power "
        "of r, through the closed form in the middle.</p>\n<div class=\"figures\">\n";
    for (const Change change : theory::kChanges) {
      html += "<div>" + figure(report, rule, change) + "</div>\n";
    }
    html += "</div>\n</section>\n";
  }
  if (report.growth) {
    html += growth_figures(*report.growth, kScaleLegend);
  }
  for (const examples::TitledTable& each : all_tables(report)) {
    html += html_section(each);
  }
  const std::string style = legend_style(kScaleLegend) + (report.growth ? growth_style(*report.growth) : "");
  return examples::html_page("How a first step grows with the rank", style, html + "</main>\n");
}

} // namespace rora::cli
