#include <rora/theory/power_law.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace rora::theory {
namespace {

/// The x at which a growing function that is 1/2 at 0 and symmetric about it reaches `probability`.
template <typename Distribution>
double quantile(double probability, const Distribution& distribution) {
  TORCH_CHECK_VALUE(probability > 0.0 && probability < 1.0, "a probability must be in (0, 1): ", probability);
  if (probability < 0.5) {
    return -quantile(1.0 - probability, distribution);
  }
  double low = 0.0;
  double high = 1.0;
  while (distribution(high) < probability && high < 1e18) {
    high *= 2.0;
  }
  for (int i = 0; i < 200 && low < high; ++i) {
    const double middle = 0.5 * (low + high);
    (distribution(middle) < probability ? low : high) = middle;
  }
  return 0.5 * (low + high);
}

/// P(T < t) for t ≥ 0 (Abramowitz and Stegun, 26.7.3 and 26.7.4).
double student_distribution(double t, int64_t degrees_of_freedom) {
  const double angle = std::atan(t / std::sqrt(static_cast<double>(degrees_of_freedom)));
  const double cosine_squared = std::cos(angle) * std::cos(angle);
  const bool odd = degrees_of_freedom % 2 == 1;
  double term = odd ? std::cos(angle) : 1.0;
  double sum = degrees_of_freedom == 1 ? 0.0 : term;
  for (int64_t k = odd ? 2 : 1; k <= degrees_of_freedom - 3; k += 2) {
    term *= cosine_squared * static_cast<double>(k) / static_cast<double>(k + 1);
    sum += term;
  }
  const double two_sided = odd ? 2.0 / std::numbers::pi * (angle + std::sin(angle) * sum) : std::sin(angle) * sum;
  return 0.5 + 0.5 * two_sided;
}

bool is_positive(double value) {
  return std::isfinite(value) && value > 0.0;
}

} // namespace

double PowerLaw::at(double x) const {
  return factor * std::pow(x, exponent);
}

double normal_quantile(double probability) {
  return quantile(probability, [](double x) { return 1.0 - 0.5 * std::erfc(x / std::numbers::sqrt2); });
}

double student_quantile(double probability, int64_t degrees_of_freedom) {
  TORCH_CHECK_VALUE(degrees_of_freedom >= 1, "degrees of freedom must be at least 1: ", degrees_of_freedom);
  return quantile(probability, [&](double x) { return student_distribution(x, degrees_of_freedom); });
}

PowerLaw fit_power_law(const std::vector<PowerLawPoint>& points, double confidence) {
  TORCH_CHECK_VALUE(confidence > 0.0 && confidence < 1.0, "a confidence must be in (0, 1): ", confidence);
  const auto count = static_cast<double>(points.size());
  size_t with_error = 0;
  double x_mean = 0.0;
  double y_mean = 0.0;
  for (const PowerLawPoint& point : points) {
    TORCH_CHECK_VALUE(
        is_positive(point.x) && is_positive(point.y), "a power law needs finite numbers above 0, not (", point.x, ", ",
        point.y, ")");
    TORCH_CHECK_VALUE(
        std::isfinite(point.standard_error) && point.standard_error >= 0.0,
        "a standard error must be finite and not negative: ", point.standard_error);
    with_error += point.standard_error > 0.0 ? 1 : 0;
    x_mean += std::log(point.x) / count;
    y_mean += std::log(point.y) / count;
  }
  TORCH_CHECK_VALUE(
      with_error == 0 || with_error == points.size(), "standard errors are known of all points of a power law or none");
  double x_squares = 0.0;
  double products = 0.0;
  for (const PowerLawPoint& point : points) {
    const double x = std::log(point.x) - x_mean;
    x_squares += x * x;
    products += x * (std::log(point.y) - y_mean);
  }
  TORCH_CHECK_VALUE(x_squares > 1e-12, "a power law needs two different x");
  TORCH_CHECK_VALUE(with_error > 0 || points.size() >= 3, "a power law without standard errors needs three points");

  PowerLaw law;
  law.exponent = products / x_squares;
  law.factor = std::exp(y_mean - law.exponent * x_mean);
  double variance = 0.0;
  for (const PowerLawPoint& point : points) {
    const double x = std::log(point.x) - x_mean;
    if (with_error > 0) {
      const double error = x / x_squares * point.standard_error / point.y;
      variance += error * error;
    } else {
      const double residual = std::log(point.y) - y_mean - law.exponent * x;
      variance += residual * residual / (count - 2.0) / x_squares;
    }
  }
  law.standard_error = std::sqrt(variance);
  const double probability = 0.5 + 0.5 * confidence;
  const double width = law.standard_error *
      (with_error > 0 ? normal_quantile(probability)
                      : student_quantile(probability, static_cast<int64_t>(points.size()) - 2));
  law.low = law.exponent - width;
  law.high = law.exponent + width;
  return law;
}

} // namespace rora::theory
