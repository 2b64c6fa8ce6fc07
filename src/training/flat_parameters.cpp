#include <rora/training/flat_parameters.h>

#include <rora/core/gradient_buffer.h>

#include <ATen/ATen.h>

#include <algorithm>
#include <stdexcept>
#include <unordered_set>

namespace rora {
namespace {

int64_t row_length(const at::Tensor& x) {
  return x.dim() == 2 ? x.size(1) : 0;
}

} // namespace

FlatParameters::FlatParameters(std::vector<at::Tensor> parameters) : parameters_(std::move(parameters)) {
  if (parameters_.empty()) {
    throw std::invalid_argument("there is no parameter to train");
  }
  int64_t size = 0;
  std::unordered_set<const at::TensorImpl*> seen;
  for (const at::Tensor& each : parameters_) {
    if (!seen.insert(each.unsafeGetTensorImpl()).second) {
      throw std::invalid_argument("a parameter to train is listed twice");
    }
    if (each.scalar_type() != parameters_[0].scalar_type() || each.device() != parameters_[0].device()) {
      throw std::invalid_argument("the parameters to train must be of one dtype and on one device");
    }
    size += each.numel();
  }
  std::stable_sort(parameters_.begin(), parameters_.end(), [](const at::Tensor& a, const at::Tensor& b) {
    return row_length(a) < row_length(b);
  });
  at::NoGradGuard no_grad;
  values_ = at::empty({size}, parameters_[0].options().requires_grad(false));
  gradients_ = at::zeros_like(values_);
  int64_t begin = 0;
  for (at::Tensor& each : parameters_) {
    const at::Tensor view = values_.narrow(0, begin, each.numel()).view(each.sizes());
    view.copy_(each);
    each.set_data(view);
    gradient_views_.push_back(gradients_.narrow(0, begin, each.numel()).view(each.sizes()));
    each.mutable_grad() = gradient_views_.back();
    if (gradients_.is_cpu()) {
      buffers_.push_back(std::make_shared<ops::GradientBuffer>(gradient_views_.back()));
    }
    begin += each.numel();
  }
}

const at::Tensor& FlatParameters::gradients() {
  at::NoGradGuard no_grad;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    at::Tensor& gradient = parameters_[i].mutable_grad();
    const at::Tensor& view = gradient_views_[i];
    if (gradients_.is_cpu()) {
      buffers_[i]->withdraw();
    }
    if (!gradient.defined()) {
      view.zero_();
    } else if (gradient.const_data_ptr() != view.const_data_ptr()) {
      view.copy_(gradient);
    } else {
      continue;
    }
    gradient = view;
  }
  return gradients_;
}

void FlatParameters::zero_grad() {
  if (!gradients_.is_cpu()) {
    gradients_.zero_();
    return;
  }
  for (size_t i = 0; i < parameters_.size(); ++i) {
    at::Tensor& gradient = parameters_[i].mutable_grad();
    if (buffers_[i]->offer()) {
      gradient.reset();
    } else {
      gradient = gradient_views_[i].zero_();
    }
  }
}

void FlatParameters::mark_changed() {
  for (const at::Tensor& each : parameters_) {
    each.unsafeGetTensorImpl()->bump_version();
  }
}

at::Tensor FlatParameters::clip_gradients(double max_norm) {
  constexpr double kAddend = 1e-6;
  const at::Tensor norm = gradients().norm();
  if (max_norm <= 0.0) {
    return norm;
  }
  if (gradients_.is_cpu()) { // where a look at the norm may save the pass over the gradients
    if (const double value = norm.item<double>(); value > max_norm) {
      gradients_.mul_(max_norm / (value + kAddend));
    }
    return norm;
  }
  const at::Tensor factor = at::where(norm > max_norm, max_norm / (norm.to(at::kDouble) + kAddend), 1.0);
  gradients_.mul_(factor.to(gradients_.scalar_type()));
  return norm;
}

} // namespace rora
