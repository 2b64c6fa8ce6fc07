#pragma once

#include <cstdint>
#include <vector>

namespace rora::theory {

/// A measured y at x, both above 0.
struct PowerLawPoint {
  double x = 0.0;
  double y = 0.0;
  double standard_error = 0.0; ///< of y; 0: not known
};

/// y = factor·x^exponent: the line through (ln x, ln y) of least squares, each point weighing the same.
///
/// The exponent's interval has the asked probability of holding the true one. Where the points' standard errors are
/// known it follows from them, eᵢ = standard_errorᵢ/yᵢ being that of ln yᵢ, with a normal's quantile:
///
///   exponent = Σ cᵢ·ln yᵢ,  cᵢ = (ln xᵢ − m)/Σ(ln xⱼ − m)²,  m the mean of ln x;  standard error √Σ cᵢ²·eᵢ²
///
/// which presumes that the points are independent. Where they are not known it follows from how far the points lie from
/// the line, with Student's quantile of n − 2 degrees of freedom; points that are no power law then widen it.
struct PowerLaw {
  double exponent = 0.0;
  double factor = 0.0;
  double standard_error = 0.0; ///< of the exponent
  double low = 0.0; ///< the interval's ends
  double high = 0.0;

  double at(double x) const;
};

/// Throws `c10::ValueError` for fewer than two different x, for numbers that are not finite and above 0, for standard
/// errors of some points alone, and without any for fewer than three points.
PowerLaw fit_power_law(const std::vector<PowerLawPoint>& points, double confidence = 0.95);

/// The x that a standard normal variable, or Student's of so many degrees of freedom, is below with that probability,
/// which is in (0, 1).
double normal_quantile(double probability);
double student_quantile(double probability, int64_t degrees_of_freedom);

} // namespace rora::theory
