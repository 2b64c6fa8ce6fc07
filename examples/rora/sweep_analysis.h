#pragma once

#include "sweep_results.h"

#include <rora/theory/laws.h>

#include <cstdint>
#include <functional>
#include <iterator>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace rora::cli {

/// A mean over seeds; NaN where there is none.
struct Mean {
  double value = 0.0;
  double standard_error = 0.0; ///< 0 where there is one value
  int64_t count = 0;
};
Mean mean_of(const std::vector<double>& values);

/// What runs are compared by: "validation loss", or the accuracy in a task.
struct Metric {
  std::string name;
  bool is_share = false; ///< shown in percent; more is better
  std::function<double(const Reached&)> of;
};
std::vector<Metric> metrics(const std::vector<std::string>& tasks);

/// The runs of one method, α and rank at one rate, by seed.
struct RatePoint {
  double lr = 0.0;
  std::vector<const SweepResult*> runs;

  bool diverged() const; ///< whether any run did
  Mean mean(const Metric& metric) const; ///< NaN where any diverged
};

/// The runs of one method, α and rank, from the lowest rate on.
struct RateCurve {
  const Method* method = nullptr;
  AlphaRule alpha;
  int64_t rank = 0;
  std::vector<RatePoint> points;
};

/// By α, method and rank, in the order of the axes; a method without a rank, or an α, has one curve.
std::vector<RateCurve> rate_curves(const SweepReport& report);

/// A validation loss at a rate; infinite where a run diverged.
struct LossAtRate {
  double lr = 0.0;
  double loss = 0.0;
};
std::vector<LossAtRate> losses_of(const RateCurve& curve);

/// The rate of the lowest loss.
struct BestRate {
  size_t index = 0; ///< of the rates tried
  /// The lowest point of the parabola in ln(lr) through the best rate tried and its neighbours, where both are finite.
  double lr = 0.0;
  bool at_edge = false; ///< the best rate tried is the lowest or the highest, so that a better one may lie beyond
  bool interpolated = false; ///< otherwise the rate is as coarse as those tried
};
/// Nothing where all diverged.
std::optional<BestRate> best_rate(const std::vector<LossAtRate>& losses);

/// The rates around the best one tried whose loss is at most `within` over its loss, ends interpolated in ln(lr).
struct RateBand {
  double low = 0.0;
  double high = 0.0;
  bool open_low = false; ///< it reaches the lowest rate tried
  bool open_high = false;
};
std::optional<RateBand> rate_band(const std::vector<LossAtRate>& losses, double within);

/// How the best rate goes with the rank: lr ∝ rank^exponent.
struct RateDrift {
  const Method* method = nullptr;
  AlphaRule alpha;
  std::vector<std::pair<int64_t, double>> best; ///< rank and best rate, of each seed by itself, interpolated ones alone
  int64_t left_out =
      0; ///< seeds and ranks whose best rate was at the edge, beside a diverged one, or that all diverged
  std::optional<theory::Estimate> exponent; ///< with Student's 95% interval; nothing for fewer than three points
  theory::Verdict in_place = theory::Verdict::kUndecided; ///< on the exponent 0, unless too many were left out

  /// Over a quarter: what is missing is so for its rate, and what is there would lean to 0.
  bool too_many_left_out() const {
    return 3 * left_out > std::ssize(best);
  }
};
std::vector<RateDrift> rate_drifts(const SweepReport& report);

/// A metric of one method less that of another at the same α and rank, each at its own best rate, seed by seed.
struct Difference {
  const Method* method = nullptr;
  const Method* reference = nullptr;
  AlphaRule alpha; ///< of both; the other's where one has none
  int64_t rank = 0;
  theory::Estimate estimate; ///< with Student's 95% interval; without width for one seed
  int64_t count = 0; ///< of seeds
};
/// Of each other method to the first of --methods.
std::vector<Difference> differences(const SweepReport& report, const Metric& metric);

/// The place of a method among those of the sweep.
size_t place_of(const SweepReport& report, const Method* method);

/// (mean − base)/(reference − base): 1 where training has won back all that the model lacks of the reference. Nothing
/// without a reference, and where the two do not differ.
std::optional<double> won_back(const SweepReport& report, const Metric& metric, const Mean& mean);

} // namespace rora::cli
