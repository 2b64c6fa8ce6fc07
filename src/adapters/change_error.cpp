#include "change_error.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace rora::detail {
namespace {

double ratio_of_norms(double error_squared, double norm_squared) {
  if (error_squared == 0.0) {
    return 0.0;
  }
  return norm_squared > 0.0 ? std::sqrt(error_squared / norm_squared) : std::numeric_limits<double>::infinity();
}

} // namespace

double product_norm_squared(const at::Tensor& b, const at::Tensor& a) {
  const at::Tensor wide_b = b.to(at::kDouble), wide_a = a.to(at::kDouble);
  // Rounding may bring the square of a product that is 0, of factors that are not, below it.
  return std::max(0.0, (wide_b.t().mm(wide_b) * wide_a.mm(wide_a.t())).sum().item<double>());
}

double norm_squared(const LowRankChange& change) {
  return change.scale * change.scale * product_norm_squared(change.b, change.a);
}

LowRankChange padded(const LowRankChange& change, int64_t rank) {
  const int64_t zeros = rank - change.rank();
  if (zeros <= 0) {
    return change;
  }
  LowRankChange wide = change;
  wide.a = at::cat({change.a, change.a.new_zeros({zeros, change.a.size(1)})});
  wide.b = at::cat({change.b, change.b.new_zeros({change.b.size(0), zeros})}, 1);
  return wide;
}

void ErrorSum::add(const std::string& module, double error_squared, double norm_squared) {
  const double relative = ratio_of_norms(error_squared, norm_squared);
  if (relative > largest_.largest) {
    largest_.largest = relative;
    largest_.module = module;
  }
  error_squared_ += error_squared;
  norm_squared_ += norm_squared;
}

ChangeError ErrorSum::total() const {
  ChangeError total = largest_;
  total.overall = ratio_of_norms(error_squared_, norm_squared_);
  return total;
}

} // namespace rora::detail
