#include "theory_training_report.h"

#include <cmath>
#include <cstdio>

namespace rora::cli {
namespace {

using theory::Estimate;
using theory::PowerLawPoint;
using theory::ProjectionGrowth;
using theory::RankScale;

constexpr const char* kRankStyle = "-of-rank";

double value_of(const ProjectionGrowth& growth, bool output) {
  return output ? growth.output : growth.weight;
}

/// The geometric mean over the projections; none where the run did not get so far.
std::optional<double> mean_growth(const GrowthRun& run, int64_t step, bool output) {
  const auto found = run.measured.find(step);
  if (found == run.measured.end()) {
    return std::nullopt;
  }
  double sum = 0.0;
  for (const ProjectionGrowth& each : found->second) {
    sum += std::log(value_of(each, output)) / static_cast<double>(found->second.size());
  }
  return std::isfinite(sum) ? std::optional<double>(std::exp(sum)) : std::nullopt;
}

std::vector<PowerLawPoint> by_rank(const ModelGrowth& growth, const RankScale& scale, int64_t step, bool output) {
  std::vector<PowerLawPoint> points;
  for (const int64_t rank : growth.ranks) {
    if (const auto mean = mean_growth(growth.run(rank, scale), step, output)) {
      points.push_back({static_cast<double>(rank), *mean});
    }
  }
  return points;
}

/// The slope that the gradient of the first batch says the first step's outputs have.
double slope_by_gradient(const ModelGrowth& growth, const RankScale& scale) {
  std::vector<PowerLawPoint> points;
  for (const auto& [rank, moments] : growth.first_step) {
    double sum = 0.0;
    for (const double moment : moments) {
      sum += 0.5 * std::log(moment) / static_cast<double>(moments.size());
    }
    points.push_back({static_cast<double>(rank), scale.factor(1.0, rank) * std::exp(sum)});
  }
  return theory::fit_power_law(points).exponent;
}

std::string text_of(double value, const char* pattern) {
  char text[64];
  std::snprintf(text, sizeof text, pattern, value);
  return text;
}

std::string with_interval(const Estimate& estimate) {
  return text_of(estimate.value, "%.3f") + " ± " + text_of(0.5 * (estimate.high - estimate.low), "%.3f");
}

Json estimate_json(const Estimate& estimate) {
  return {{"value", estimate.value}, {"low", estimate.low}, {"high", estimate.high}};
}

std::vector<examples::LegendEntry> rank_legend(const ModelGrowth& growth) {
  std::vector<std::string> names;
  for (const int64_t rank : growth.ranks) {
    names.push_back("r = " + std::to_string(rank));
  }
  return examples::ordered_legend(names);
}

examples::Figure small_figure(const std::string& description, const std::string& x, const std::string& y) {
  examples::Figure figure;
  figure.width = 440.0;
  figure.height = 380.0;
  figure.description = description;
  figure.x = {.label = x, .logarithmic = true};
  figure.y = {.label = y, .logarithmic = true};
  return figure;
}

std::string figure_by_rank(
    const ModelGrowth& growth, std::vector<examples::LegendEntry> legend, int64_t step, bool output) {
  const std::string change = output ? "‖ΔW·x‖" : "‖ΔW‖";
  examples::Figure figure = small_figure(
      change + " of the model's projections against the rank, after step " + std::to_string(step), "rank",
      change + ", step " + std::to_string(step));
  examples::Panel panel;
  for (size_t i = 0; i < theory::kRankScales.size(); ++i) {
    examples::Series series{{}, i, /*markers=*/true};
    for (const PowerLawPoint& point : by_rank(growth, theory::kRankScales[i], step, output)) {
      series.points.push_back({point.x, point.y});
    }
    panel.series.push_back(series);
  }
  for (const GrowthTest& test : test_growth(growth)) {
    for (size_t i = 0; i < legend.size(); ++i) {
      const bool is_this = test.step == step && test.output == output && test.fitted &&
          test.scale.exponent == theory::kRankScales[i].exponent;
      legend[i].name += is_this ? ": fitted " + text_of(test.fitted->value, "%+.2f") : "";
    }
  }
  for (const int64_t rank : growth.ranks) {
    figure.x.ticks.push_back(static_cast<double>(rank));
  }
  figure.legend = std::move(legend);
  figure.panels.push_back(panel);
  return render_svg(figure);
}

std::string figure_by_step(const ModelGrowth& growth, const RankScale& scale, bool output) {
  const std::string change = output ? "‖ΔW·x‖" : "‖ΔW‖";
  examples::Figure figure = small_figure(
      change + " of the model's projections against the step for each rank, γ = " + scale.name, "step",
      change + ", γ = " + scale.name);
  figure.legend = rank_legend(growth);
  figure.style = kRankStyle;
  examples::Panel panel;
  for (size_t i = 0; i < growth.ranks.size(); ++i) {
    const GrowthRun& run = growth.run(growth.ranks[i], scale);
    examples::Series series{{}, i, /*markers=*/true};
    for (const auto& [step, all] : run.measured) {
      if (const auto mean = mean_growth(run, step, output)) {
        series.points.push_back({static_cast<double>(step), *mean});
      }
    }
    panel.series.push_back(series);
  }
  figure.panels.push_back(panel);
  return render_svg(figure);
}

/// The number that stands in "model.layers.NUMBER.…".
std::optional<int64_t> layer_of(const std::string& module) {
  const size_t digit = module.find_first_of("0123456789");
  return digit == std::string::npos ? std::nullopt : std::optional<int64_t>(std::stoll(module.substr(digit)));
}

/// The geometric mean of each layer's projections after the last step, at the highest rank.
std::string figure_by_layer(const ModelGrowth& growth, const std::vector<examples::LegendEntry>& legend, bool output) {
  const std::string change = output ? "‖ΔW·x‖" : "‖ΔW‖";
  const int64_t rank = growth.ranks.back();
  examples::Figure figure =
      small_figure(change + " of each layer after the last step", "layer", change + " at r = " + std::to_string(rank));
  figure.x.logarithmic = false;
  figure.legend = legend;
  examples::Panel panel;
  for (size_t i = 0; i < theory::kRankScales.size(); ++i) {
    const GrowthRun& run = growth.run(rank, theory::kRankScales[i]);
    examples::Series series{{}, i, /*markers=*/true};
    const auto found = run.measured.find(growth.steps);
    std::map<int64_t, std::vector<double>> layers;
    for (const ProjectionGrowth& each : found == run.measured.end() ? std::vector<ProjectionGrowth>() : found->second) {
      if (const auto layer = layer_of(each.module)) {
        layers[*layer].push_back(std::log(value_of(each, output)));
      }
    }
    for (const auto& [layer, logarithms] : layers) {
      double sum = 0.0;
      for (const double each : logarithms) {
        sum += each;
      }
      series.points.push_back({static_cast<double>(layer), std::exp(sum / static_cast<double>(logarithms.size()))});
    }
    panel.series.push_back(series);
  }
  figure.panels.push_back(panel);
  return render_svg(figure);
}

} // namespace

std::vector<GrowthTest> test_growth(const ModelGrowth& growth) {
  std::vector<GrowthTest> tests;
  for (const int64_t step : {int64_t{1}, growth.steps}) {
    for (const bool output : {true, false}) {
      for (const RankScale& scale : theory::kRankScales) {
        GrowthTest test;
        test.step = step;
        test.output = output;
        test.scale = scale;
        test.claimed = output ? 1.0 + 2.0 * scale.exponent : 0.5 + scale.exponent;
        if (output && step == 1) {
          test.by_gradient = slope_by_gradient(growth, scale);
        }
        const auto points = by_rank(growth, scale, step, output);
        if (points.size() >= 3) {
          const theory::PowerLaw law = theory::fit_power_law(points);
          test.fitted = {law.exponent, law.low, law.high};
          test.verdict = theory::judge_exponent(*test.fitted, test.claimed);
        }
        tests.push_back(test);
      }
    }
    if (growth.steps == 1) {
      break;
    }
  }
  return tests;
}

std::vector<Estimate> first_step_ratios(const ModelGrowth& growth) {
  const auto ranks = static_cast<double>(growth.ranks.size());
  const double width = theory::normal_quantile(1.0 - 0.5 * (1.0 - theory::kMomentConfidence) / ranks);
  std::vector<Estimate> ratios;
  for (const int64_t rank : growth.ranks) {
    const GrowthRun& run = growth.run(rank, theory::kRoraScale);
    const auto found = run.measured.find(1);
    if (found == run.measured.end()) {
      continue;
    }
    const std::vector<double>& moments = growth.first_step.at(rank);
    const auto count = static_cast<double>(moments.size());
    std::vector<double> all;
    double mean = 0.0;
    for (size_t i = 0; i < moments.size(); ++i) {
      all.push_back(std::pow(found->second[i].output / (run.factor * growth.lr), 2) / moments[i]);
      mean += all.back() / count;
    }
    double variance = 0.0;
    for (const double ratio : all) {
      variance += (ratio - mean) * (ratio - mean) / (count - 1.0);
    }
    const double half = width * std::sqrt(variance / count);
    ratios.push_back({mean, mean - half, mean + half});
  }
  return ratios;
}

std::vector<examples::TitledTable> growth_tables(const ModelGrowth& growth) {
  examples::TitledTable first;
  first.title = "The first step of " + growth.model;
  first.text = "The mean over its " + std::to_string(growth.modules.size()) +
      " projections of ‖ΔW·x‖², measured/closed form: the latter by AdamW, from the gradient of the first batch, "
      "without "
      "AdamW's ε. The intervals of all ranks together hold with 99.9%.";
  first.table.columns = {"rank", "measured/closed form", "verdict"};
  first.table.words = {2};
  const auto ratios = first_step_ratios(growth);
  for (size_t i = 0; i < ratios.size() && ratios.size() == growth.ranks.size(); ++i) {
    first.table.rows.push_back(
        {std::to_string(growth.ranks[i]), with_interval(ratios[i]), verdict_text(theory::judge_ratios({ratios[i]}))});
  }
  examples::TitledTable result;
  result.title = "Growth with the rank in training " + growth.model;
  result.text = "AdamW at the rate " + Json(growth.lr).dump() + ", " + std::to_string(growth.steps) +
      " steps; the geometric mean over the projections, on inputs that the frozen model gave. Claimed of outputs: the "
      "paper's γ²·r; of weights: AdamW's first step, γ·√r. By gradient: the closed form's slope. Student's 95% "
      "intervals.";
  result.table.columns = {"step", "change", "γ", "claimed", "by gradient", "fitted", "verdict on the claim"};
  result.table.words = {1, 2, 6};
  result.table.swatch_column = 2;
  for (const GrowthTest& test : test_growth(growth)) {
    const size_t row = result.table.rows.size();
    if (row % theory::kRankScales.size() == 0) {
      result.table.groups.push_back(row);
    }
    result.table.swatches.push_back(row % theory::kRankScales.size());
    result.table.rows.push_back(
        {std::to_string(test.step), test.output ? "‖ΔW·x‖" : "‖ΔW‖", test.scale.name, text_of(test.claimed, "%.2f"),
         test.by_gradient ? text_of(*test.by_gradient, "%.3f") : "", test.fitted ? with_interval(*test.fitted) : "-",
         test.fitted ? verdict_text(test.verdict) : "not measured: trainings ended before"});
  }
  std::string stopped;
  for (const GrowthRun& run : growth.runs) {
    if (run.stopped_before) {
      stopped += (stopped.empty() ? " Not finite, and ended: " : ", ") + std::string(run.scale.name) + " at rank " +
          std::to_string(run.rank) + " in step " + std::to_string(*run.stopped_before);
    }
  }
  result.text += stopped + (stopped.empty() ? "" : ".");
  return {first, result};
}

std::string growth_csv(const ModelGrowth& growth) {
  std::string csv = "scale_exponent,rank,scale,step,module,weight,output\n";
  for (const GrowthRun& run : growth.runs) {
    for (const auto& [step, all] : run.measured) {
      for (const ProjectionGrowth& each : all) {
        csv += Json(run.scale.exponent).dump();
        for (const std::string& cell :
             {std::to_string(run.rank), Json(run.factor).dump(), std::to_string(step), each.module,
              Json(each.weight).dump(), Json(each.output).dump()}) {
          csv += ',';
          csv += cell;
        }
        csv += '\n';
      }
    }
  }
  return csv;
}

Json growth_json(const ModelGrowth& growth) {
  Json json{
      {"model", growth.model}, {"steps", growth.steps}, {"lr", growth.lr}, {"projections", growth.modules.size()}};
  for (const Estimate& ratio : first_step_ratios(growth)) {
    json["first_step"].push_back(
        {{"measured/closed_form", estimate_json(ratio)}, {"verdict", verdict_text(theory::judge_ratios({ratio}))}});
  }
  for (const GrowthTest& test : test_growth(growth)) {
    json["exponents"].push_back(
        {{"step", test.step},
         {"change", test.output ? "output" : "weight"},
         {"scale_exponent", test.scale.exponent},
         {"claimed", test.claimed},
         {"by_gradient", test.by_gradient ? Json(*test.by_gradient) : Json(nullptr)},
         {"fitted", test.fitted ? estimate_json(*test.fitted) : Json(nullptr)},
         {"verdict", verdict_text(test.verdict)}});
  }
  for (const GrowthRun& run : growth.runs) {
    if (run.stopped_before) {
      json["stopped"].push_back(
          {{"scale_exponent", run.scale.exponent}, {"rank", run.rank}, {"step", *run.stopped_before}});
    }
  }
  return json;
}

std::string growth_figures(const ModelGrowth& growth, const std::vector<examples::LegendEntry>& scale_legend) {
  std::string html = "<section>\n<h2>Trainings of " + examples::escape_markup(growth.model) +
      "</h2>\n<p class=\"soft\">The geometric mean over the projections, on inputs that the frozen model gave.</p>\n"
      "<div class=\"figures\">\n";
  const auto add = [&](const std::string& svg) { html += "<div>" + svg + "</div>\n"; };
  for (const bool output : {true, false}) {
    add(figure_by_rank(growth, scale_legend, 1, output));
    add(figure_by_rank(growth, scale_legend, growth.steps, output));
    add(figure_by_layer(growth, scale_legend, output));
  }
  for (const bool output : {true, false}) {
    for (const RankScale& scale : theory::kRankScales) {
      add(figure_by_step(growth, scale, output));
    }
  }
  return html + "</div>\n</section>\n";
}

std::string growth_style(const ModelGrowth& growth) {
  return legend_style(rank_legend(growth), kRankStyle);
}

} // namespace rora::cli
