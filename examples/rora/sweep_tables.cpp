#include "sweep_tables.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace rora::cli {
namespace {

using examples::TitledTable;

std::string format(const char* pattern, double value) {
  char text[64];
  std::snprintf(text, sizeof text, pattern, value);
  return text;
}

/// "1.2345 ± 0.0012", "45.2 ± 1.3%".
std::string shown(const Metric& metric, const Mean& mean) {
  if (mean.count == 0) {
    return "-";
  }
  const std::string value = metric.is_share ? format("%.1f", 100.0 * mean.value) : format("%.4f", mean.value);
  const std::string unit = metric.is_share ? "%" : "";
  if (mean.count == 1) {
    return value + unit;
  }
  return value + " ± " +
      (metric.is_share ? format("%.1f", 100.0 * mean.standard_error) : format("%.4f", mean.standard_error)) + unit;
}

std::string rank_text(int64_t rank) {
  return rank == 0 ? "all" : std::to_string(rank);
}

/// Begins a group where the method or α changes.
class Grouping {
 public:
  Grouping(const SweepReport& report, examples::Table& table) : report_(report), table_(table) {
    table_.words.push_back(0);
  }
  void begin_row(const Method* method, const AlphaRule& alpha) {
    const std::string title = method_title(report_, *method, alpha);
    if (title != last_) {
      table_.groups.push_back(table_.rows.size());
      last_ = title;
    }
    table_.swatches.push_back(place_of(report_, method));
    table_.rows.push_back({title});
  }

 private:
  const SweepReport& report_;
  examples::Table& table_;
  std::string last_;
};

TitledTable reached_table(const SweepReport& report) {
  TitledTable result;
  result.title = "At each one's best rate";
  result.text =
      "The rate of those tried whose validation loss is lowest over the seeds, with the weights of each run's best "
      "validation. ± is one standard error over the seeds: how sure the mean is, not how far one run may be from it. "
      "The first line is the model before training.";
  const std::vector<Metric> all = metrics(report.tasks);
  result.table.columns = {"method", "rank", "rate"};
  for (const Metric& metric : all) {
    result.table.columns.push_back(metric.name);
  }
  for (const std::string& task : report.tasks) {
    result.table.columns.push_back("no answer, " + task);
  }
  const auto add_untrained = [&](const std::string& name, const Reached& reached) {
    result.table.rows.push_back({name, "", ""});
    for (const Metric& metric : all) {
      const double value = metric.of(reached);
      result.table.rows.back().push_back(metric.is_share ? format("%.1f%%", 100.0 * value) : format("%.4f", value));
    }
    for (const std::string& task : report.tasks) {
      result.table.rows.back().push_back(format("%.1f%%", 100.0 * reached.tasks.at(task).unparsed));
    }
    result.table.swatches.push_back(report.axes.methods.size()); // no colour
  };
  if (report.reference) {
    add_untrained("reference model", *report.reference);
    for (const Metric& metric : all) {
      result.table.columns.push_back("won back, " + metric.name);
    }
    result.text += " Won back: of what lies between the model before training and the reference model.";
  }
  add_untrained("no training", report.base);
  Grouping grouping(report, result.table);
  for (const RateCurve& curve : rate_curves(report)) {
    grouping.begin_row(curve.method, curve.alpha);
    std::vector<std::string>& row = result.table.rows.back();
    row.push_back(rank_text(curve.rank));
    const auto best = best_rate(losses_of(curve));
    if (!best) {
      row.push_back("diverged at every rate");
      row.resize(result.table.columns.size());
      continue;
    }
    const RatePoint& point = curve.points[best->index];
    row.push_back(rate_text(point.lr));
    for (const Metric& metric : all) {
      row.push_back(shown(metric, point.mean(metric)));
    }
    for (const std::string& task : report.tasks) {
      std::vector<double> shares;
      for (const SweepResult* run : point.runs) {
        shares.push_back(run->reached.tasks.at(task).unparsed);
      }
      row.push_back(format("%.1f%%", 100.0 * mean_of(shares).value));
    }
    for (size_t i = 0; report.reference && i < all.size(); ++i) {
      const auto share = won_back(report, all[i], point.mean(all[i]));
      row.push_back(share ? format("%.1f%%", 100.0 * *share) : "-");
    }
  }
  return result;
}

TitledTable difference_table(const SweepReport& report) {
  TitledTable result;
  const std::string reference = report.axes.methods.front()->title;
  result.title = "What is left of the differences to " + reference;
  const bool one_seed = report.axes.seeds.size() < 2;
  result.text = "Each method less " + reference +
      " at the same rank, each at its own best rate, seed by seed, with Student's 95% interval" +
      (one_seed ? ", which takes two seeds" : "") +
      ". A lower loss and a higher accuracy are better. The best rates are chosen on the same validation data.";
  result.table.columns = {"method", "rank"};
  const std::vector<Metric> all = metrics(report.tasks);
  std::vector<std::vector<Difference>> columns;
  for (const Metric& metric : all) {
    result.table.columns.push_back(metric.name);
    columns.push_back(differences(report, metric));
  }
  Grouping grouping(report, result.table);
  for (size_t i = 0; i < columns[0].size(); ++i) {
    const Difference& first = columns[0][i];
    grouping.begin_row(first.method, first.alpha);
    std::vector<std::string>& row = result.table.rows.back();
    if (!first.method->has_alpha && first.reference->has_alpha && report.axes.alphas.size() > 1) {
      row[0] += ", less " + method_title(report, *first.reference, first.alpha);
    }
    row.push_back(rank_text(first.rank));
    for (size_t metric = 0; metric < all.size(); ++metric) {
      const theory::Estimate& estimate = columns[metric][i].estimate;
      const double half = 0.5 * (estimate.high - estimate.low);
      const double unit = all[metric].is_share ? 100.0 : 1.0;
      const bool is_share = all[metric].is_share;
      row.push_back(
          format(is_share ? "%+.1f" : "%+.4f", unit * estimate.value) +
          (one_seed ? "" : " ± " + format(is_share ? "%.1f" : "%.4f", unit * half)) + (is_share ? " points" : ""));
    }
  }
  return result;
}

TitledTable band_table(const SweepReport& report) {
  TitledTable result;
  result.title = "Where good rates lie";
  result.text =
      "The best rate by the parabola through the lowest mean loss and its neighbours, and the rates whose mean "
      "loss is at most " +
      format("%g", report.within) +
      " higher, between which the loss is interpolated in the rate's logarithm. ≤ and ≥: the band, or the best rate, "
      "is "
      "at the edge of what was tried, and goes on.";
  result.table.columns = {"method", "rank", "best rate", "good from", "to", "times as high", "diverged"};
  Grouping grouping(report, result.table);
  for (const RateCurve& curve : rate_curves(report)) {
    grouping.begin_row(curve.method, curve.alpha);
    std::vector<std::string>& row = result.table.rows.back();
    row.push_back(rank_text(curve.rank));
    const std::vector<LossAtRate> losses = losses_of(curve);
    const auto best = best_rate(losses);
    const auto band = rate_band(losses, report.within);
    int64_t diverged = 0, runs = 0;
    for (const RatePoint& point : curve.points) {
      for (const SweepResult* run : point.runs) {
        diverged += run->diverged_after ? 1 : 0;
        ++runs;
      }
    }
    if (band) {
      const char* const edge = !best->at_edge ? "" : best->index == 0 ? "≤ " : "≥ ";
      row.push_back(edge + rate_text(best->lr));
      row.push_back((band->open_low ? "≤ " : "") + rate_text(band->low));
      row.push_back((band->open_high ? "≥ " : "") + rate_text(band->high));
      row.push_back((band->open_low || band->open_high ? "≥ " : "") + format("%.1f", band->high / band->low));
    } else {
      row.insert(row.end(), 4, "-");
    }
    row.push_back(std::to_string(diverged) + " of " + std::to_string(runs));
  }
  return result;
}

TitledTable drift_table(const SweepReport& report) {
  TitledTable result;
  result.title = "Does the best rate stay in place?";
  result.text =
      "The power of the rank by which the best rate goes, fitted to each seed's own, with Student's 95% interval. It "
      "stays in place where the whole interval is within " +
      format("%g", theory::kExponentTolerance) +
      " of 0. Left out are seeds and ranks whose best rate is at the edge of those tried or beside one that diverged, "
      "as it is "
      "then known no closer than the rates are apart; where they are over a quarter there is no verdict.";
  result.table.columns = {"method", "power of the rank", "points", "left out", "in place"};
  result.table.words = {4};
  Grouping grouping(report, result.table);
  for (const RateDrift& drift : rate_drifts(report)) {
    grouping.begin_row(drift.method, drift.alpha);
    std::vector<std::string>& row = result.table.rows.back();
    row.push_back(
        drift.exponent ? format("%+.2f", drift.exponent->value) + " ± " +
                format("%.2f", 0.5 * (drift.exponent->high - drift.exponent->low))
                       : "-");
    row.push_back(std::to_string(drift.best.size()));
    row.push_back(std::to_string(drift.left_out));
    row.push_back(verdict_of(drift));
  }
  result.table.groups.clear();
  return result;
}

} // namespace

std::string rate_text(double lr) {
  return format("%.2g", lr);
}

std::string verdict_of(const RateDrift& drift) {
  if (!drift.exponent) {
    return "not measured: too few points";
  }
  if (drift.too_many_left_out()) {
    return "not decided: too many were left out";
  }
  return verdict_text(drift.in_place);
}

std::string method_title(const SweepReport& report, const Method& method, const AlphaRule& alpha) {
  return method.title + (method.has_alpha && report.axes.alphas.size() > 1 ? ", α = " + alpha.text() : "");
}

std::vector<TitledTable> sweep_tables(const SweepReport& report) {
  std::vector<TitledTable> tables{reached_table(report)};
  if (report.axes.methods.size() > 1) {
    tables.push_back(difference_table(report));
  }
  tables.push_back(band_table(report));
  tables.push_back(drift_table(report));
  return tables;
}

TitledTable cost_table(const SweepReport& report) {
  TitledTable result;
  result.title = "What it costs";
  result.text =
      "Trained parameters in percent of all, the adapter's included; seconds that making the adapter took, with what "
      "it "
      "captures, and of a run's steps without its validations; a step's time as a multiple of the first method's at "
      "the "
      "same rank, and the peak memory of the process or the GPU, means over rates and seeds. Times of a machine that "
      "does other things as well are so much longer.";
  result.table.columns = {"method",  "rank",     "parameters", "share",   "start",
                          "seconds", "tokens/s", "relative",   "peak MiB"};
  Grouping grouping(report, result.table);
  const std::vector<RateCurve> curves = rate_curves(report);
  const auto mean_over = [](const RateCurve& curve, const auto& of) {
    std::vector<double> values;
    for (const RatePoint& point : curve.points) {
      for (const SweepResult* run : point.runs) {
        if (!run->diverged_after) {
          values.push_back(static_cast<double>(of(*run)));
        }
      }
    }
    return mean_of(values).value;
  };
  const auto seconds = [&](const RateCurve& curve) {
    return mean_over(curve, [](const SweepResult& run) { return run.seconds; });
  };
  const auto step = [&](const RateCurve& curve) {
    return mean_over(curve, [](const SweepResult& run) { return run.seconds / static_cast<double>(run.steps); });
  };
  const auto number = [](const char* pattern, double value) {
    return std::isnan(value) ? std::string("-") : format(pattern, value);
  };
  for (const RateCurve& curve : curves) {
    grouping.begin_row(curve.method, curve.alpha);
    double reference = std::nan("");
    for (const RateCurve& other : curves) {
      const bool same = other.rank == curve.rank || other.rank == 0 || curve.rank == 0;
      if (std::isnan(reference) && other.method == report.axes.methods.front() && same) {
        reference = step(other);
      }
    }
    std::vector<std::string>& row = result.table.rows.back();
    row.push_back(rank_text(curve.rank));
    row.push_back(number("%.0f", mean_over(curve, [](const SweepResult& run) { return run.trainable; })));
    row.push_back(number("%.4f%%", mean_over(curve, [](const SweepResult& run) { return run.trainable_percent; })));
    row.push_back(number("%.1f", mean_over(curve, [](const SweepResult& run) { return run.start_seconds; })));
    row.push_back(number("%.1f", seconds(curve)));
    row.push_back(number("%.0f", mean_over(curve, [](const SweepResult& run) { return run.tokens_per_s; })));
    row.push_back(number("%.2f", step(curve) / reference));
    row.push_back(number("%.0f", mean_over(curve, [](const SweepResult& run) { return run.peak_mib; })));
  }
  return result;
}

} // namespace rora::cli
