#include "demo/report.h"

#include "demo/svg_plot.h"

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>

namespace rora::demo {
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
    legend.push_back({method_name(method), style.light, style.dashes, style.marker});
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

constexpr const char* kStyle = R"css(
:root { color-scheme: light dark; --page: #f4f5f7; --card: #ffffff; --ink: #1f2430; --soft: #5b6270; --line: #dfe2e8; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14161b; --card: #1d2027; --ink: #e8eaf0; --soft: #a2a9b8; --line: #333845; }
}
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 960px; margin: 0 auto; padding: 40px 20px 60px; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .4em; }
h2 { font-size: 1.1rem; margin: 0 0 .2em; }
p { margin: .3em 0 .9em; max-width: 75ch; }
.soft { color: var(--soft); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 22px 26px; margin: 22px 0; }
svg { display: block; width: 100%; height: auto; margin-top: 10px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; margin-top: 10px; }
th, td { text-align: right; padding: 6px 10px; white-space: nowrap; }
th:nth-child(2), td:nth-child(2) { text-align: left; }
th { font-weight: 600; color: var(--soft); font-size: .88rem; border-bottom: 1px solid var(--line); }
tr.first td { border-top: 1px solid var(--line); }
code { font-size: .92em; }
.swatch { display: inline-block; width: .65em; height: .65em; border-radius: 2px; margin-right: .55em; }
)css";

// The colours of lines and marks on dark pages, and those of the swatches.
std::string method_style() {
  std::string light;
  std::string dark;
  for (size_t i = 0; i < kMethods.size(); ++i) {
    const MethodStyle style = style_of(kMethods[i]);
    light += format(".swatch-%zu { background: %s; }\n", i, style.light);
    dark += format(
        "  .series-%zu { stroke: %s; } .mark-%zu { fill: %s; } .swatch-%zu { background: %s; }\n", i, style.dark, i,
        style.dark, i, style.dark);
  }
  return light + "@media (prefers-color-scheme: dark) {\n" + dark + "}\n";
}

std::string html_table(const Comparison& comparison) {
  std::string html = "<div class=\"scroll\"><table>\n<thead><tr>";
  for (const std::string& column : kColumns) {
    html += "<th scope=\"col\">" + escape_markup(column) + "</th>";
  }
  html += "</tr></thead>\n<tbody>\n";
  int64_t rank = 0;
  for (const Run& run : comparison.runs) {
    html += run.rank == rank ? "<tr>" : "<tr class=\"first\">";
    rank = run.rank;
    const std::vector<std::string> row = cells(run, comparison);
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string swatch =
          i == 1 ? format("<span class=\"swatch swatch-%zu\"></span>", legend_index(run.method)) : "";
      html += "<td>" + swatch + escape_markup(row[i]) + "</td>";
    }
    html += "</tr>\n";
  }
  return html + "</tbody></table></div>\n";
}

} // namespace

std::string text_table(const Comparison& comparison) {
  std::vector<std::vector<std::string>> rows{kColumns};
  for (const Run& run : comparison.runs) {
    rows.push_back(cells(run, comparison));
  }
  const auto columns_of = [](const std::string& text) {
    return static_cast<size_t>(
        std::count_if(text.begin(), text.end(), [](unsigned char byte) { return (byte & 0xC0) != 0x80; }));
  };
  std::vector<size_t> widths(kColumns.size());
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      widths[i] = std::max(widths[i], columns_of(row[i]));
    }
  }
  std::string table;
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      table += (i == 0 ? "" : "  ") + std::string(widths[i] - columns_of(row[i]), ' ') + row[i];
    }
    table += "\n";
  }
  return table;
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
  figure.legend.push_back({"no adapter", "#7a7f8a", "3 3", Marker::kNone});
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
  std::string html =
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<title>LoRA, RoRA and DoRA on a small LLaMA</title>\n<style>";
  html += kStyle + method_style() + "</style>\n</head>\n<body>\n<main>\n";
  html += "<h1>LoRA, RoRA and DoRA on a small LLaMA</h1>\n<p>A LLaMA of " +
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
  html += "<section>\n<h2>All runs</h2>\n" + html_table(comparison) +
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
  return html + "</main>\n</body>\n</html>\n";
}

} // namespace rora::demo
