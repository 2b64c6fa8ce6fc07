#include "demo/report.h"

#include "common/markup.h"
#include "common/svg_plot.h"
#include "common/ticks.h"

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>

namespace rora::demo {

using namespace examples;

namespace {

// Okabe and Ito's colours, which colour-blind readers tell apart; brighter ones for dark pages.
struct MethodStyle {
  const char* light;
  const char* dark;
  const char* dashes;
  Marker marker;
};

MethodStyle style_of(Method method) {
  switch (method) {
    case Method::kLoRA:
      return {"#0072B2", "#56B4E9", "7 4", Marker::kSquare};
    case Method::kRoRA:
      return {"#D55E00", "#FF8A3D", "", Marker::kCircle};
    case Method::kDoRA:
      return {"#008a64", "#2FC79B", "2 4", Marker::kTriangle};
  }
  return {};
}

std::string format(const char* pattern, ...) __attribute__((format(printf, 1, 2)));

std::string format(const char* pattern, ...) {
  char text[256];
  va_list arguments;
  va_start(arguments, pattern);
  std::vsnprintf(text, sizeof text, pattern, arguments);
  va_end(arguments);
  return text;
}

std::string percent(double share) {
  return format("%.1f%%", 100.0 * share);
}

std::vector<LegendEntry> method_legend() {
  std::vector<LegendEntry> legend;
  for (const Method method : kMethods) {
    const MethodStyle style = style_of(method);
    legend.push_back({method_name(method), style.light, style.dark, style.dashes, style.marker});
  }
  return legend;
}

size_t legend_index(Method method) {
  return static_cast<size_t>(std::find(kMethods.begin(), kMethods.end(), method) - kMethods.begin());
}

// An exponential average over about a twentieth of the steps, without the bias towards its start.
std::vector<Point> smoothed(const std::vector<double>& losses) {
  const double decay = 1.0 - 1.0 / std::max(2.0, static_cast<double>(losses.size()) / 20.0);
  std::vector<Point> points;
  double sum = 0.0;
  double weight = 0.0;
  for (size_t i = 0; i < losses.size(); ++i) {
    sum = decay * sum + losses[i];
    weight = decay * weight + 1.0;
    points.push_back({static_cast<double>(i + 1), sum / weight});
  }
  return points;
}

std::vector<Point> as_points(const std::vector<double>& losses) {
  std::vector<Point> points;
  for (size_t i = 0; i < losses.size(); ++i) {
    points.push_back({static_cast<double>(i + 1), losses[i]});
  }
  return points;
}

// The row of the table that both forms of it show.
std::vector<std::string> cells(const Run& run, const Comparison& comparison) {
  return {
      std::to_string(run.rank),
      method_name(run.method),
      format_tick(static_cast<double>(run.trainable), false),
      format("%.1f%%", run.trainable_share),
      format("%.4f", run.final_loss()),
      percent(comparison.before.share),
      percent(run.accuracy.share) + format(" ± %.1f", 100.0 * run.accuracy.standard_error),
      format("%.1f", run.seconds)};
}

const std::vector<std::string> kColumns{"rank",       "method", "trainable",      "share",
                                        "final loss", "before", "accuracy after", "seconds"};

Table runs_table(const Comparison& comparison) {
  Table table{kColumns, {}, {1}, {}, {}, 1};
  int64_t rank = 0;
  for (const Run& run : comparison.runs) {
    if (run.rank != rank) {
      table.groups.push_back(table.rows.size());
    }
    rank = run.rank;
    table.rows.push_back(cells(run, comparison));
    table.swatches.push_back(legend_index(run.method));
  }
  return table;
}

} // namespace

std::string text_table(const Comparison& comparison) {
  return examples::text_table(runs_table(comparison));
}

std::string loss_figure(const Comparison& comparison) {
  Figure figure;
  figure.description = "Training loss against step for each method, one panel a rank";
  figure.x = {.label = "step"};
  figure.y = {.label = "training loss", .logarithmic = true};
  figure.x.minimum = 0.0;
  figure.legend = method_legend();
  for (const int64_t rank : comparison.options.ranks) {
    Panel panel{"rank " + std::to_string(rank), {}};
    for (const Run& run : comparison.runs) {
      if (run.rank == rank) {
        panel.series.push_back({as_points(run.losses), legend_index(run.method), false, true});
        panel.series.push_back({smoothed(run.losses), legend_index(run.method), false, false});
      }
    }
    figure.panels.push_back(std::move(panel));
  }
  return render_svg(figure);
}

std::string accuracy_figure(const Comparison& comparison) {
  Figure figure;
  figure.description = "Accuracy on the taught facts against rank for each method";
  figure.x = {.label = "rank", .logarithmic = true};
  figure.y = {.label = "accuracy on the facts", .percent = true, .minimum = 0.0, .maximum = 1.0};
  figure.legend = method_legend();
  figure.legend.push_back({"no adapter", "#7a7f8a", "", "3 3", Marker::kNone});
  Panel panel;
  Series base{{}, kMethods.size(), false, false};
  for (const int64_t rank : comparison.options.ranks) {
    figure.x.ticks.push_back(static_cast<double>(rank));
    base.points.push_back({static_cast<double>(rank), comparison.before.share});
  }
  panel.series.push_back(base);
  for (const Method method : kMethods) {
    Series series{{}, legend_index(method), true, false};
    for (const Run& run : comparison.runs) {
      if (run.method == method) {
        series.points.push_back({static_cast<double>(run.rank), run.accuracy.share, run.accuracy.standard_error});
      }
    }
    panel.series.push_back(series);
  }
  figure.panels.push_back(panel);
  return render_svg(figure);
}

std::string html_report(const Comparison& comparison) {
  const ComparisonOptions& options = comparison.options;
  std::string html = "<main>\n<h1>LoRA, RoRA and DoRA on a small LLaMA</h1>\n<p>A LLaMA of " +
      format_tick(static_cast<double>(comparison.model_parameters), false) +
      " parameters, which knows nothing but stories of a tiny world, is taught " + std::to_string(comparison.facts) +
      " facts that nobody could guess, and is then asked for each of them. What is compared is how much an adapter can "
      "hold: there is no rule to find, so accuracy on other questions would be chance.</p>\n<p><code>" +
      escape_markup(comparison.example.prompt) + "</code> → <code>" + escape_markup(comparison.example.completion) +
      "</code></p>\n";
  html += "<section>\n<h2>Accuracy against rank</h2>\n<p class=\"soft\">" +
      format("Of %lld facts; the bars are one standard error.", static_cast<long long>(comparison.facts)) + "</p>\n" +
      accuracy_figure(comparison) + "</section>\n";
  html +=
      "<section>\n<h2>Loss against step</h2>\n<p class=\"soft\">Averaged over about a twentieth of the steps; the pale "
      "lines are the steps themselves.</p>\n" +
      loss_figure(comparison) + "</section>\n";
  html += "<section>\n<h2>All runs</h2>\n" + html_table(runs_table(comparison)) +
      "<p class=\"soft\">Share: of all parameters, the adapter's included. Final loss: the mean of the last tenth of "
      "the "
      "steps. Seconds: the training alone.</p>\n</section>\n";
  html +=
      "<section>\n<h2>How it was made</h2>\n<p>" +
      format(
          "Every run has α = %g, learning rate %g (warm-up over a tenth of the steps, then linear decay), %lld steps "
          "of %lld "
          "out of %lld facts, AdamW without weight decay, seed %llu, in fp32, on all seven projections of each layer. ",
          options.alpha, options.lr, static_cast<long long>(options.steps), static_cast<long long>(options.batch_size),
          static_cast<long long>(comparison.facts), static_cast<unsigned long long>(options.seed)) +
      "They differ in the scale of the adapter's change alone: α/r in LoRA, α/√r in RoRA; DoRA is LoRA with a trained "
      "magnitude a row. With one learning rate for all, a smaller scale is a slower adapter; tuning the rate for each "
      "method and rank would bring them closer.</p>\n<p class=\"soft\">" +
      format("All of it took %.0f seconds.", comparison.seconds) + "</p>\n</section>\n";
  return html_page("LoRA, RoRA and DoRA on a small LLaMA", legend_style(method_legend()), html + "</main>\n");
}

} // namespace rora::demo
