#include "sweep_figures.h"

#include "sweep_tables.h"

#include "common/markup.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

namespace rora::cli {
namespace {

using examples::Figure;
using examples::LegendEntry;
using examples::Marker;
using examples::Panel;
using examples::Point;
using examples::Series;

constexpr const char* kRankStyle = "-of-rank";
constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

std::vector<LegendEntry> rank_legend(const SweepReport& report) {
  std::vector<std::string> names;
  for (const int64_t rank : report.axes.ranks) {
    names.push_back("r = " + std::to_string(rank));
  }
  return examples::ordered_legend(names);
}

Figure small_figure(const std::string& description, const std::string& x, const std::string& y) {
  Figure figure;
  figure.width = 440.0;
  figure.height = 380.0;
  figure.description = description;
  figure.x = {.label = x};
  figure.y = {.label = y};
  return figure;
}

/// Nothing where there is no point to show.
std::string rendered(const Figure& figure) {
  for (const Panel& panel : figure.panels) {
    for (const Series& series : panel.series) {
      if (std::any_of(
              series.points.begin(), series.points.end(), [](const Point& point) { return std::isfinite(point.y); })) {
        return render_svg(figure);
      }
    }
  }
  return "";
}

/// The curves of an α, in whose figures those of methods without one stand too.
std::vector<RateCurve> curves_at(const SweepReport& report, const AlphaRule& alpha) {
  std::vector<RateCurve> curves = rate_curves(report);
  std::erase_if(curves, [&](const RateCurve& curve) { return curve.method->has_alpha && !(curve.alpha == alpha); });
  return curves;
}

std::string with_alpha(const SweepReport& report, const AlphaRule& alpha) {
  return report.axes.alphas.size() > 1 ? ", α = " + alpha.text() : "";
}

/// Whether figures of a metric have the methods side by side, as there is no line over several ranks.
bool are_side_by_side(const SweepReport& report) {
  return report.axes.ranks.size() == 1 && report.axes.methods.size() > 1;
}

/// A metric against the rank for each method, at the rate `lr` or, without one, at each one's best.
std::string by_rank(
    const SweepReport& report, const AlphaRule& alpha, const Metric& metric, const std::optional<double>& lr) {
  const std::string where = lr ? "at the rate " + rate_text(*lr) : "at each one's best rate";
  const bool by_method = are_side_by_side(report);
  const std::string against = by_method ? "the method" : "the rank";
  Figure figure = small_figure(
      metric.name + " against " + against + " " + where, by_method ? "method, as the legend counts them" : "rank",
      metric.name);
  figure.x.logarithmic = !by_method;
  figure.y.percent = metric.is_share;
  figure.legend = method_legend(report);
  Panel panel{where + with_alpha(report, alpha), {}};
  std::vector<double> methods;
  for (size_t i = 0; i < report.axes.methods.size(); ++i) {
    panel.series.push_back({{}, i, /*markers=*/true});
    methods.push_back(static_cast<double>(i + 1));
  }
  const std::vector<double> ranks(report.axes.ranks.begin(), report.axes.ranks.end());
  figure.x.ticks = by_method ? methods : ranks;
  for (const RateCurve& curve : curves_at(report, alpha)) {
    const auto best = best_rate(losses_of(curve));
    Mean mean = mean_of({});
    for (size_t i = 0; i < curve.points.size(); ++i) {
      if (lr ? curve.points[i].lr == *lr : best && best->index == i) {
        mean = curve.points[i].mean(metric);
      }
    }
    const size_t place = place_of(report, curve.method);
    const std::vector<double> at = by_method ? std::vector<double>{methods[place]}
        : curve.rank == 0                    ? ranks
                                             : std::vector<double>{static_cast<double>(curve.rank)};
    for (const double x : at) {
      panel.series[place].points.push_back({x, mean.value, mean.standard_error});
    }
  }
  figure.panels.push_back(panel);
  return rendered(figure);
}

/// Validation loss against the rate of one method, a line a rank.
std::string by_rate(const SweepReport& report, const Method& method, const AlphaRule& alpha) {
  const std::string title = method_title(report, method, alpha);
  Figure figure = small_figure(
      "validation loss of " + title + " against the learning rate for each rank", "learning rate",
      "validation loss, " + title);
  figure.x.logarithmic = true;
  figure.legend = method.has_rank ? rank_legend(report) : std::vector<LegendEntry>{rank_legend(report).back()};
  figure.style = kRankStyle;
  if (!method.has_rank) {
    figure.legend[0].name = title;
  }
  const Metric loss = metrics({})[0];
  Panel panel;
  for (const RateCurve& curve : rate_curves(report)) {
    if (curve.method != &method || (method.has_alpha && !(curve.alpha == alpha))) {
      continue;
    }
    Series series{{}, panel.series.size(), /*markers=*/true};
    for (const RatePoint& point : curve.points) {
      const Mean mean = point.mean(loss);
      series.points.push_back({point.lr, mean.value, mean.standard_error});
    }
    panel.series.push_back(series);
  }
  figure.panels.push_back(panel);
  return rendered(figure);
}

/// The best rate against the rank, of the mean loss over the seeds; the legend has the fitted powers.
std::string best_rates(const SweepReport& report, const AlphaRule& alpha) {
  Figure figure = small_figure(
      "the best learning rate against the rank for each method", "rank", "best rate" + with_alpha(report, alpha));
  figure.x.logarithmic = figure.y.logarithmic = true;
  figure.y.minimum = report.axes.lrs.front();
  figure.y.maximum = report.axes.lrs.back();
  figure.legend = method_legend(report);
  for (const int64_t rank : report.axes.ranks) {
    figure.x.ticks.push_back(static_cast<double>(rank));
  }
  for (const RateDrift& drift : rate_drifts(report)) {
    if (drift.exponent && (!drift.method->has_alpha || drift.alpha == alpha)) {
      char text[32];
      std::snprintf(text, sizeof text, ": r^%+.2f", drift.exponent->value);
      figure.legend[place_of(report, drift.method)].name += text;
    }
  }
  Panel panel;
  for (size_t i = 0; i < report.axes.methods.size(); ++i) {
    panel.series.push_back({{}, i, /*markers=*/true});
  }
  for (const RateCurve& curve : curves_at(report, alpha)) {
    const auto best = best_rate(losses_of(curve));
    for (const int64_t rank : curve.rank == 0 ? report.axes.ranks : std::vector<int64_t>{curve.rank}) {
      panel.series[place_of(report, curve.method)].points.push_back(
          {static_cast<double>(rank), best && !best->at_edge ? best->lr : kNone});
    }
  }
  figure.panels.push_back(panel);
  return rendered(figure);
}

/// The mean over the runs of each step's number, averaged over about a twentieth of the steps.
std::vector<Point> smoothed(const RatePoint& point, const std::vector<double> SweepResult::*steps) {
  size_t count = std::numeric_limits<size_t>::max();
  for (const SweepResult* run : point.runs) {
    count = std::min(count, (run->*steps).size());
  }
  const double decay = 1.0 - 1.0 / std::max(2.0, static_cast<double>(count) / 20.0);
  std::vector<Point> points;
  double sum = 0.0, weight = 0.0;
  for (size_t step = 0; step < count; ++step) {
    double mean = 0.0;
    for (const SweepResult* run : point.runs) {
      mean += (run->*steps)[step] / static_cast<double>(point.runs.size());
    }
    sum = decay * sum + mean; // as a mean of what has been, without a pull towards 0
    weight = decay * weight + 1.0;
    points.push_back({static_cast<double>(step + 1), sum / weight});
  }
  return points;
}

/// The training loss of each method at its best rate, at the highest rank.
std::string loss_curves(const SweepReport& report, const AlphaRule& alpha) {
  const int64_t rank = report.axes.ranks.back();
  Figure figure = small_figure(
      "training loss by step of each method at its best rate", "step",
      "loss, r = " + std::to_string(rank) + with_alpha(report, alpha));
  figure.legend = method_legend(report);
  Panel panel;
  for (const RateCurve& curve : curves_at(report, alpha)) {
    const auto best = best_rate(losses_of(curve));
    if (best && (curve.rank == 0 || curve.rank == rank)) {
      panel.series.push_back(
          {smoothed(curve.points[best->index], &SweepResult::losses), place_of(report, curve.method)});
    }
  }
  figure.panels.push_back(panel);
  return rendered(figure);
}

/// The gradient's norm of one method at its best rates, a line a rank.
std::string gradient_norms(const SweepReport& report, const Method& method, const AlphaRule& alpha) {
  const std::string title = method_title(report, method, alpha);
  Figure figure =
      small_figure("norm of the gradient by step of " + title + " for each rank", "step", "‖gradient‖, " + title);
  figure.y.logarithmic = true;
  figure.legend = rank_legend(report);
  figure.style = kRankStyle;
  Panel panel;
  for (const RateCurve& curve : rate_curves(report)) {
    const auto best = best_rate(losses_of(curve));
    if (best && curve.method == &method && (!method.has_alpha || curve.alpha == alpha)) {
      const auto& ranks = report.axes.ranks;
      const auto place = static_cast<size_t>(std::find(ranks.begin(), ranks.end(), curve.rank) - ranks.begin());
      panel.series.push_back({smoothed(curve.points[best->index], &SweepResult::gradient_norms), place});
    }
  }
  figure.panels.push_back(panel);
  return rendered(figure);
}

/// Calls with each α that the method takes part in.
template <typename Call>
void for_each_alpha(const SweepReport& report, const Method& method, Call call) {
  for (const AlphaRule& alpha : report.axes.alphas) {
    if (method.has_alpha || alpha == report.axes.alphas.front()) {
      call(alpha);
    }
  }
}

std::string section(const std::string& title, const std::string& text, const std::vector<std::string>& figures) {
  std::string html = "<section>\n<h2>" + title + "</h2>\n<p class=\"soft\">" + text + "</p>\n<div class=\"figures\">\n";
  for (const std::string& figure : figures) {
    html += figure.empty() ? "" : "<div>" + figure + "</div>\n";
  }
  return html + "</div>\n</section>\n";
}

} // namespace

std::vector<LegendEntry> method_legend(const SweepReport& report) {
  // Okabe and Ito's colours, which colour-blind readers tell apart; brighter ones for dark pages.
  static const std::vector<LegendEntry> kStyles{
      {"lora", "#0072B2", "#56B4E9", "7 4", Marker::kSquare},
      {"rora", "#D55E00", "#FF8A3D", "", Marker::kCircle},
      {"dora", "#008a64", "#2FC79B", "2 4", Marker::kTriangle},
      {"dora-rora", "#a0518a", "#E39BCB", "10 3 2 3", Marker::kSquare},
      {"full", "#5b6270", "#a2a9b8", "1 3", Marker::kCircle},
      {"series", "#8a6d00", "#E8C547", "6 2 1 2", Marker::kTriangle},
      {"parallel", "#7a3b2e", "#D99A8B", "3 2", Marker::kCircle},
      {"prefix", "#2d6f73", "#7FCBD0", "8 2 2 2", Marker::kSquare}};
  std::vector<LegendEntry> legend;
  size_t others = 0; // take the colours again, with the dashes and markers of their neighbours
  for (const Method* method : report.axes.methods) {
    const auto found = std::find_if(
        kStyles.begin(), kStyles.end(), [&](const LegendEntry& style) { return style.name == method->name; });
    if (found != kStyles.end()) {
      legend.push_back(*found);
    } else {
      const size_t colour = others % kStyles.size();
      const LegendEntry& neighbour = kStyles[(colour + 1 + others / kStyles.size()) % kStyles.size()];
      legend.push_back(kStyles[colour]);
      legend.back().dashes = neighbour.dashes;
      legend.back().marker = neighbour.marker;
      ++others;
    }
    legend.back().name = method->title;
  }
  return legend;
}

std::string sweep_figures(const SweepReport& report) {
  std::vector<std::string> at_best, at_one, rates, drifts, losses, norms;
  for (const AlphaRule& alpha : report.axes.alphas) {
    for (const Metric& metric : metrics(report.tasks)) {
      at_best.push_back(by_rank(report, alpha, metric, std::nullopt));
      for (const double lr : report.axes.lrs) {
        at_one.push_back(by_rank(report, alpha, metric, lr));
      }
    }
    drifts.push_back(best_rates(report, alpha));
    losses.push_back(loss_curves(report, alpha));
  }
  for (const Method* method : report.axes.methods) {
    for_each_alpha(report, *method, [&](const AlphaRule& alpha) {
      rates.push_back(by_rate(report, *method, alpha));
      if (method->has_rank) {
        norms.push_back(gradient_norms(report, *method, alpha));
      }
    });
  }
  const std::string against = are_side_by_side(report) ? "By method" : "Against the rank";
  return section(
             against + ", each at its best rate",
             "Means over the seeds; bars are one standard error. The best rate of a method and rank has the lowest "
             "mean "
             "validation loss of the rates tried.",
             at_best) +
      section(
             against + ", at one rate for all",
             "As a comparison without a search for rates shows it; where a run diverged there is no mark.", at_one) +
      section("Against the learning rate", "Means over the seeds; bars are one standard error.", rates) +
      section(
             "Where the best rate lies",
             "By the parabola through the lowest mean loss and its neighbours; a best rate at the edge of those tried "
             "has no "
             "mark, as a better one may lie beyond. The power of the rank is fitted to each seed's own best rates.",
             drifts) +
      section(
             "Loss of training",
             "Each method at its best rate and the highest rank, averaged over about a twentieth of "
             "the steps and over the seeds.",
             losses) +
      section("Norm of the gradient", "Before clipping, at the best rate, averaged alike.", norms);
}

std::string sweep_style(const SweepReport& report) {
  return examples::legend_style(method_legend(report)) + examples::legend_style(rank_legend(report), kRankStyle);
}

} // namespace rora::cli
