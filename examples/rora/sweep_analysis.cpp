#include "sweep_analysis.h"

#include <rora/theory/power_law.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

namespace rora::cli {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kConfidence = 0.95;

double loss_of(const SweepResult& result) {
  return result.diverged_after ? kInfinity : result.reached.eval_loss;
}

/// The runs of `curve` of one seed.
std::vector<LossAtRate> losses_of_seed(const RateCurve& curve, int64_t seed) {
  std::vector<LossAtRate> losses;
  for (const RatePoint& point : curve.points) {
    for (const SweepResult* result : point.runs) {
      if (result->run.seed == seed) {
        losses.push_back({point.lr, loss_of(*result)});
      }
    }
  }
  return losses;
}

/// Where the parabola through three points has its lowest one: `middle` is no higher than the others.
double lowest_of_parabola(const LossAtRate& left, const LossAtRate& middle, const LossAtRate& right) {
  const double x = std::log(middle.lr);
  const double before = std::log(left.lr) - x;
  const double after = std::log(right.lr) - x;
  const double rise_before = left.loss - middle.loss;
  const double rise_after = right.loss - middle.loss;
  const double divisor = 2.0 * (before * rise_after - after * rise_before);
  return divisor == 0.0 ? middle.lr
                        : std::exp(x + (before * before * rise_after - after * after * rise_before) / divisor);
}

theory::Estimate with_interval(const std::vector<double>& values) {
  const Mean mean = mean_of(values);
  const double half =
      mean.count < 2 ? 0.0 : theory::student_quantile(0.5 * (1.0 + kConfidence), mean.count - 1) * mean.standard_error;
  return {mean.value, mean.value - half, mean.value + half};
}

} // namespace

Mean mean_of(const std::vector<double>& values) {
  Mean mean{std::numeric_limits<double>::quiet_NaN(), 0.0, std::ssize(values)};
  if (values.empty()) {
    return mean;
  }
  const auto count = static_cast<double>(values.size());
  double sum = 0.0;
  for (const double value : values) {
    sum += value;
  }
  mean.value = sum / count;
  double squares = 0.0;
  for (const double value : values) {
    squares += (value - mean.value) * (value - mean.value);
  }
  mean.standard_error = values.size() < 2 ? 0.0 : std::sqrt(squares / (count - 1.0) / count);
  return mean;
}

std::vector<Metric> metrics(const std::vector<std::string>& tasks) {
  std::vector<Metric> all{{"validation loss", false, [](const Reached& reached) { return reached.eval_loss; }}};
  for (const std::string& task : tasks) {
    all.push_back(
        {"accuracy by " + task, true, [task](const Reached& reached) { return reached.tasks.at(task).accuracy; }});
  }
  return all;
}

bool RatePoint::diverged() const {
  return std::any_of(runs.begin(), runs.end(), [](const SweepResult* run) { return run->diverged_after.has_value(); });
}

Mean RatePoint::mean(const Metric& metric) const {
  std::vector<double> values;
  for (const SweepResult* run : runs) {
    if (run->diverged_after) {
      return mean_of({});
    }
    values.push_back(metric.of(run->reached));
  }
  return mean_of(values);
}

std::vector<RateCurve> rate_curves(const SweepReport& report) {
  std::vector<RateCurve> curves;
  const SweepAxes& axes = report.axes;
  for (const AlphaRule& alpha : axes.alphas) {
    for (const Method* method : axes.methods) {
      for (const int64_t rank : method->has_rank ? axes.ranks : std::vector<int64_t>{0}) {
        RateCurve curve{method, alpha, rank, {}};
        for (const double lr : axes.lrs) {
          RatePoint point{lr, {}};
          for (const SweepResult& result : report.results) {
            if (result.run.method == method && result.run.alpha == alpha && result.run.rank == rank &&
                result.run.lr == lr) {
              point.runs.push_back(&result);
            }
          }
          if (!point.runs.empty()) {
            curve.points.push_back(point);
          }
        }
        if (!curve.points.empty()) { // of a method without an α the first one has them
          curves.push_back(std::move(curve));
        }
      }
    }
  }
  return curves;
}

std::vector<LossAtRate> losses_of(const RateCurve& curve) {
  std::vector<LossAtRate> losses;
  for (const RatePoint& point : curve.points) {
    std::vector<double> values;
    for (const SweepResult* run : point.runs) {
      values.push_back(loss_of(*run));
    }
    losses.push_back({point.lr, point.diverged() ? kInfinity : mean_of(values).value});
  }
  return losses;
}

std::optional<BestRate> best_rate(const std::vector<LossAtRate>& losses) {
  const auto best = std::min_element(
      losses.begin(), losses.end(), [](const LossAtRate& a, const LossAtRate& b) { return a.loss < b.loss; });
  if (best == losses.end() || !std::isfinite(best->loss)) {
    return std::nullopt;
  }
  BestRate rate;
  rate.index = static_cast<size_t>(best - losses.begin());
  rate.lr = best->lr;
  rate.at_edge = rate.index == 0 || rate.index + 1 == losses.size();
  if (!rate.at_edge && std::isfinite(best[-1].loss) && std::isfinite(best[1].loss)) {
    rate.lr = lowest_of_parabola(best[-1], best[0], best[1]);
    rate.interpolated = true;
  }
  return rate;
}

std::optional<RateBand> rate_band(const std::vector<LossAtRate>& losses, double within) {
  const auto best = best_rate(losses);
  if (!best) {
    return std::nullopt;
  }
  const double limit = losses[best->index].loss + within;
  // From the best rate on as far as losses are good, and on to where the line between two rates meets the limit.
  const auto end_of_band = [&](int64_t step, bool& open) {
    auto place = static_cast<int64_t>(best->index);
    const auto good = [&](int64_t i) { return losses[static_cast<size_t>(i)].loss <= limit; };
    while (place + step >= 0 && place + step < std::ssize(losses) && good(place + step)) {
      place += step;
    }
    const LossAtRate& last = losses[static_cast<size_t>(place)];
    open = place + step < 0 || place + step >= std::ssize(losses);
    if (open) {
      return last.lr;
    }
    const LossAtRate& next = losses[static_cast<size_t>(place + step)];
    const double share = std::isfinite(next.loss) ? (limit - last.loss) / (next.loss - last.loss) : 0.0;
    return std::exp(std::log(last.lr) + share * (std::log(next.lr) - std::log(last.lr)));
  };
  RateBand band;
  band.low = end_of_band(-1, band.open_low);
  band.high = end_of_band(1, band.open_high);
  return band;
}

std::vector<RateDrift> rate_drifts(const SweepReport& report) {
  std::vector<RateDrift> drifts;
  for (const RateCurve& curve : rate_curves(report)) {
    if (!curve.method->has_rank) {
      continue;
    }
    if (drifts.empty() || drifts.back().method != curve.method || !(drifts.back().alpha == curve.alpha)) {
      drifts.push_back({curve.method, curve.alpha, {}, 0, std::nullopt, theory::Verdict::kUndecided});
    }
    for (const int64_t seed : report.axes.seeds) {
      const auto best = best_rate(losses_of_seed(curve, seed));
      if (best && best->interpolated) {
        drifts.back().best.emplace_back(curve.rank, best->lr);
      } else {
        ++drifts.back().left_out;
      }
    }
  }
  for (RateDrift& drift : drifts) {
    std::vector<theory::PowerLawPoint> points;
    std::set<int64_t> ranks;
    for (const auto& [rank, lr] : drift.best) {
      points.push_back({static_cast<double>(rank), lr});
      ranks.insert(rank);
    }
    if (points.size() >= 3 && ranks.size() >= 2) {
      const theory::PowerLaw law = theory::fit_power_law(points, kConfidence);
      drift.exponent = {law.exponent, law.low, law.high};
      if (!drift.too_many_left_out()) {
        drift.in_place = theory::judge_exponent(*drift.exponent, 0.0);
      }
    }
  }
  return drifts;
}

std::vector<Difference> differences(const SweepReport& report, const Metric& metric) {
  const std::vector<RateCurve> curves = rate_curves(report);
  const Method* const reference = report.axes.methods.front();
  const auto point_at_best = [](const RateCurve& curve) -> const RatePoint* {
    const auto best = best_rate(losses_of(curve));
    return best ? &curve.points[best->index] : nullptr;
  };
  std::vector<Difference> all;
  for (const RateCurve& curve : curves) {
    for (const RateCurve& other : curves) {
      const bool compared = curve.method != reference && other.method == reference &&
          (curve.rank == other.rank || curve.rank == 0 || other.rank == 0) &&
          (curve.alpha == other.alpha || !curve.method->has_alpha || !other.method->has_alpha);
      const RatePoint* own = compared ? point_at_best(curve) : nullptr;
      const RatePoint* its = compared ? point_at_best(other) : nullptr;
      if (own == nullptr || its == nullptr) {
        continue;
      }
      std::vector<double> values;
      for (size_t i = 0; i < own->runs.size() && i < its->runs.size(); ++i) { // both in the order of the seeds
        values.push_back(metric.of(own->runs[i]->reached) - metric.of(its->runs[i]->reached));
      }
      const int64_t rank = std::max(curve.rank, other.rank);
      all.push_back(
          {curve.method, reference, curve.method->has_alpha ? curve.alpha : other.alpha, rank, with_interval(values),
           std::ssize(values)});
    }
  }
  return all;
}

size_t place_of(const SweepReport& report, const Method* method) {
  const auto& all = report.axes.methods;
  return static_cast<size_t>(std::find(all.begin(), all.end(), method) - all.begin());
}

std::optional<double> won_back(const SweepReport& report, const Metric& metric, const Mean& mean) {
  if (!report.reference || mean.count == 0) {
    return std::nullopt;
  }
  const double base = metric.of(report.base);
  const double lost = metric.of(*report.reference) - base;
  return lost == 0.0 ? std::nullopt : std::optional<double>((mean.value - base) / lost);
}

} // namespace rora::cli
