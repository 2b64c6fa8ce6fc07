#include <rora/theory/first_step.h>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <cmath>
#include <numbers>

namespace rora::theory {
namespace {

/// Of |u|, u a standard normal.
constexpr double kMeanOfAbsoluteSquared = 2.0 / std::numbers::pi;

double inner_product(const at::Tensor& a, const at::Tensor& b) {
  return a.dot(b).item<double>();
}

void require_vector(const at::Tensor& x, int64_t size, const char* name) {
  TORCH_CHECK_VALUE(
      x.dim() == 1 && x.size(0) == size && x.scalar_type() == at::kDouble, name, " must be [", size, "] in fp64, not ",
      x.sizes(), " in ", x.scalar_type());
}

} // namespace

double RankScale::factor(double alpha, int64_t rank) const {
  TORCH_CHECK_VALUE(rank >= 1, "a scale needs a rank of at least 1, not ", rank);
  return alpha * std::pow(static_cast<double>(rank), exponent);
}

EntryDistribution EntryDistribution::uniform(int64_t in_features) {
  TORCH_CHECK_VALUE(in_features >= 1, "in_features must be at least 1: ", in_features);
  return {1.0 / (3.0 * static_cast<double>(in_features)), -1.2};
}

EntryDistribution EntryDistribution::standard_normal() {
  return {1.0, 0.0};
}

double output_second_moment(
    StepRule rule, const EntryDistribution& entries, int64_t rank, const at::Tensor& x, const at::Tensor& other_x) {
  require_vector(x, x.numel(), "x");
  require_vector(other_x, x.numel(), "x'");
  const auto r = static_cast<double>(rank);
  const double kurtosis = entries.excess_kurtosis;
  const double norm_squared = inner_product(x, x);
  const double other_norm_squared = inner_product(other_x, other_x);
  const double product = inner_product(x, other_x);
  if (rule == StepRule::kSgd) {
    const double fourth = inner_product(x * x, other_x * other_x);
    return entries.variance * entries.variance * r *
        (norm_squared * other_norm_squared + (r + 1.0) * product * product + kurtosis * fourth);
  }
  const double norm = std::sqrt(norm_squared);
  const double own_fourth = inner_product(x * x, x * x) / (norm_squared * norm_squared);
  const double third_and_first = inner_product(x * x * x, other_x) / (norm_squared * norm);
  const double mean = (1.0 + kurtosis * own_fourth / 8.0) * product / norm - kurtosis * third_and_first / 6.0;
  return entries.variance * r * (other_norm_squared + (r - 1.0) * kMeanOfAbsoluteSquared * mean * mean);
}

double second_moment(
    StepRule rule, Change change, const LayerSize& size, const EntryDistribution& entries, int64_t rank) {
  TORCH_CHECK_VALUE(rank >= 1, "a rank must be at least 1: ", rank);
  const auto r = static_cast<double>(rank);
  const auto in = static_cast<double>(size.in_features);
  const auto out = static_cast<double>(size.out_features);
  const double kurtosis = entries.excess_kurtosis;
  const bool aligned = change == Change::kAlignedOutput;
  if (rule == StepRule::kSgd) {
    return out * entries.variance * entries.variance * r * in *
        (aligned ? (r + 2.0) * (in + 2.0) + 3.0 * kurtosis : in + r + 1.0 + kurtosis);
  }
  const double mean_squared = kMeanOfAbsoluteSquared * (1.0 - kurtosis / (4.0 * (in + 2.0)));
  return out * entries.variance * r * (aligned ? in * (1.0 + (r - 1.0) * mean_squared) : in + (r - 1.0) * mean_squared);
}

double output_mean_square(
    StepRule rule, const EntryDistribution& entries, int64_t rank, const at::Tensor& gradient,
    const at::Tensor& inputs) {
  TORCH_CHECK_VALUE(
      gradient.dim() == 2 && inputs.dim() == 2 && gradient.size(1) == inputs.size(1) && inputs.size(0) > 0,
      "a gradient [out, in] and inputs [tokens, in] must share in: ", gradient.sizes(), " and ", inputs.sizes());
  const auto r = static_cast<double>(rank);
  const auto tokens = static_cast<double>(inputs.size(0));
  const auto mean = [&](const at::Tensor& sum) { return sum.sum(at::kDouble).item<double>() / tokens; };
  const at::Tensor row_squares = gradient.square().sum(1);
  const double input_square = mean(inputs.square());
  const at::Tensor products = inputs.mm(gradient.t()).square_();
  if (rule == StepRule::kSgd) {
    const double fourth = mean(inputs.square().mv(gradient.square().sum(0)));
    return entries.variance * entries.variance * r *
        (row_squares.sum(at::kDouble).item<double>() * input_square + (r + 1.0) * mean(products) +
         entries.excess_kurtosis * fourth);
  }
  const at::Tensor is_row = row_squares > 0;
  const at::Tensor shares = at::where(is_row, products / row_squares, 0.0);
  return entries.variance * r *
      (is_row.sum().item<double>() * input_square + (r - 1.0) * kMeanOfAbsoluteSquared * mean(shares));
}

double predicted_exponent(StepRule rule, Change change, const RankScale& scale) {
  return (change == Change::kAlignedOutput ? 1.0 : 0.5) + static_cast<double>(powers_of_scale(rule)) * scale.exponent;
}

int64_t powers_of_scale(StepRule rule) {
  return rule == StepRule::kSgd ? 2 : 1;
}

at::Tensor first_step_change(
    StepRule rule, const at::Tensor& a, const at::Tensor& x, const at::Tensor& delta, double scale, double lr,
    double eps) {
  const at::Tensor gradient = scale * at::outer(delta, a.mv(x));
  const at::Tensor b = rule == StepRule::kSgd ? -lr * gradient : -lr * gradient / (gradient.abs() + eps);
  return scale * b.mm(a);
}

} // namespace rora::theory
