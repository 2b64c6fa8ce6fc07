#include <rora/theory/first_step_sample.h>

#include "../ops/cpu/parallel_for.h"

#include <rora/core/philox.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace rora::theory {
namespace {

constexpr size_t kQuantities = kStepRules.size() * kChanges.size();
using Squares = std::array<double, kQuantities>;

size_t place(StepRule rule, Change change) {
  return static_cast<size_t>(rule) * kChanges.size() + static_cast<size_t>(change);
}

/// The random numbers of one sample.
class SampleNumbers {
 public:
  SampleNumbers(uint64_t seed, int64_t rank, int64_t sample)
      : seed_(seed), stream_(static_cast<uint64_t>(rank) << 32 | static_cast<uint64_t>(sample)) {}

  /// In (−bound, bound).
  void fill_uniform(std::vector<double>& values, double bound) {
    const double width = 2.0 * bound * 0x1p-32;
    size_t i = 0;
    for (; i + 4 <= values.size(); i += 4) {
      const ops::Philox bits = next();
      for (size_t k = 0; k < 4; ++k) {
        values[i + k] = (static_cast<double>(bits.word[k]) + 0.5) * width - bound;
      }
    }
    const ops::Philox bits = next();
    for (size_t k = 0; i + k < values.size(); ++k) {
      values[i + k] = (static_cast<double>(bits.word[k]) + 0.5) * width - bound;
    }
  }

  /// Standard normal, by Box and Muller.
  void fill_normal(std::vector<double>& values) {
    for (size_t i = 0; i < values.size(); i += 4) {
      const ops::Philox bits = next();
      for (size_t k = 0; k < 4; k += 2) {
        const double radius = std::sqrt(-2.0 * std::log((static_cast<double>(bits.word[k]) + 0.5) * 0x1p-32));
        const double angle = 2.0 * std::numbers::pi * 0x1p-32 * static_cast<double>(bits.word[k + 1]);
        const double pair[2] = {radius * std::cos(angle), radius * std::sin(angle)};
        for (size_t n = 0; n < 2 && i + k + n < values.size(); ++n) {
          values[i + k + n] = pair[n];
        }
      }
    }
  }

 private:
  ops::Philox next() {
    return ops::Philox::generate(seed_, block_++, stream_);
  }

  uint64_t seed_;
  uint64_t stream_;
  uint64_t block_ = 0;
};

struct Products {
  double own = 0.0;
  double other = 0.0;
};

/// row·x and row·x′, in four partial sums each, which a processor adds side by side.
Products products_of(const std::vector<double>& row, const std::vector<double>& x, const std::vector<double>& other) {
  double own_sums[4] = {};
  double other_sums[4] = {};
  size_t j = 0;
  for (; j + 4 <= row.size(); j += 4) {
    for (size_t k = 0; k < 4; ++k) {
      own_sums[k] += row[j + k] * x[j + k];
      other_sums[k] += row[j + k] * other[j + k];
    }
  }
  for (; j < row.size(); ++j) {
    own_sums[0] += row[j] * x[j];
    other_sums[0] += row[j] * other[j];
  }
  return {
      own_sums[0] + own_sums[1] + own_sums[2] + own_sums[3],
      other_sums[0] + other_sums[1] + other_sums[2] + other_sums[3]};
}

double norm_squared(const std::vector<double>& values) {
  double sum = 0.0;
  for (const double value : values) {
    sum += value * value;
  }
  return sum;
}

/// The squared norms of one sample, a row of A at a time: A is never whole in memory.
class Sampler {
 public:
  explicit Sampler(const FirstStepOptions& options)
      : options_(options),
        x_(static_cast<size_t>(options.in_features())),
        other_(x_.size()),
        row_(x_.size()),
        sgd_(x_.size()),
        adamw_(x_.size()),
        delta_(static_cast<size_t>(options.out_features())) {}

  Squares draw(int64_t rank, int64_t sample) {
    SampleNumbers numbers(options_.seed(), rank, sample);
    numbers.fill_normal(x_);
    numbers.fill_normal(other_);
    numbers.fill_normal(delta_);
    std::fill(sgd_.begin(), sgd_.end(), 0.0);
    std::fill(adamw_.begin(), adamw_.end(), 0.0);
    const double bound = 1.0 / std::sqrt(static_cast<double>(options_.in_features()));
    Products q, t;
    for (int64_t k = 0; k < rank; ++k) {
      if (options_.initial_a() == InitialA::kUniform) {
        numbers.fill_uniform(row_, bound);
      } else {
        numbers.fill_normal(row_);
      }
      const Products ax = products_of(row_, x_, other_);
      const double sign = ax.own > 0.0 ? 1.0 : -1.0;
      q.own += ax.own * ax.own;
      q.other += ax.own * ax.other;
      t.own += sign * ax.own;
      t.other += sign * ax.other;
      for (size_t j = 0; j < row_.size(); ++j) {
        sgd_[j] += ax.own * row_[j];
        adamw_[j] += sign * row_[j];
      }
    }
    const double delta_squared = norm_squared(delta_);
    const auto signs_squared = static_cast<double>(delta_.size());
    Squares squares;
    squares[place(StepRule::kSgd, Change::kAlignedOutput)] = delta_squared * q.own * q.own;
    squares[place(StepRule::kSgd, Change::kIndependentOutput)] = delta_squared * q.other * q.other;
    squares[place(StepRule::kSgd, Change::kWeight)] = delta_squared * norm_squared(sgd_);
    squares[place(StepRule::kAdamW, Change::kAlignedOutput)] = signs_squared * t.own * t.own;
    squares[place(StepRule::kAdamW, Change::kIndependentOutput)] = signs_squared * t.other * t.other;
    squares[place(StepRule::kAdamW, Change::kWeight)] = signs_squared * norm_squared(adamw_);
    return squares;
  }

 private:
  const FirstStepOptions& options_;
  std::vector<double> x_;
  std::vector<double> other_;
  std::vector<double> row_;
  std::vector<double> sgd_; ///< Aᵀ·A·x
  std::vector<double> adamw_; ///< Aᵀ·sign(A·x)
  std::vector<double> delta_;
};

} // namespace

void FirstStepOptions::validate() const {
  constexpr int64_t kMost = int64_t{1} << 24;
  TORCH_CHECK_VALUE(in_features_ >= 1 && in_features_ <= kMost, "in_features must be from 1 to 2^24: ", in_features_);
  TORCH_CHECK_VALUE(
      out_features_ >= 1 && out_features_ <= kMost, "out_features must be from 1 to 2^24: ", out_features_);
  TORCH_CHECK_VALUE(
      samples_ >= kFewestSamples && samples_ <= kMost, "samples must be from ", kFewestSamples, " to 2^24: ", samples_);
}

EntryDistribution FirstStepOptions::entries() const {
  return initial_a_ == InitialA::kUniform ? EntryDistribution::uniform(in_features_)
                                          : EntryDistribution::standard_normal();
}

LayerSize FirstStepOptions::size() const {
  return {in_features_, out_features_};
}

double MeanSquare::root() const {
  return std::sqrt(mean);
}

double MeanSquare::root_standard_error() const {
  return mean > 0.0 ? 0.5 * standard_error / std::sqrt(mean) : 0.0;
}

const MeanSquare& FirstStepMeasurement::of(StepRule rule, Change change) const {
  return moments[static_cast<size_t>(rule)][static_cast<size_t>(change)];
}

FirstStepMeasurement measure_first_step(const FirstStepOptions& options, int64_t rank) {
  options.validate();
  TORCH_CHECK_VALUE(rank >= 1 && rank < int64_t{1} << 31, "a rank must be from 1 to 2^31 - 1: ", rank);
  std::vector<Squares> all(static_cast<size_t>(options.samples()));
  ops::detail::parallel_for(options.samples(), /*grain=*/1, [&](int64_t begin, int64_t end) {
    Sampler sampler(options);
    for (int64_t i = begin; i < end; ++i) {
      all[static_cast<size_t>(i)] = sampler.draw(rank, i);
    }
  });
  // The sums go through the samples in their order, whoever drew them.
  FirstStepMeasurement measurement;
  measurement.rank = rank;
  const auto count = static_cast<double>(all.size());
  for (const StepRule rule : kStepRules) {
    for (const Change change : kChanges) {
      MeanSquare& moment = measurement.moments[static_cast<size_t>(rule)][static_cast<size_t>(change)];
      for (const Squares& squares : all) {
        moment.mean += squares[place(rule, change)] / count;
      }
      double variance = 0.0;
      for (const Squares& squares : all) {
        const double difference = squares[place(rule, change)] - moment.mean;
        variance += difference * difference / (count - 1.0);
      }
      moment.standard_error = std::sqrt(variance / count);
    }
  }
  return measurement;
}

} // namespace rora::theory
