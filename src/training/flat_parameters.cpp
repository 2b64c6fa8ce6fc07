#include <rora/training/flat_parameters.h>

#include <ATen/ATen.h>

#include <stdexcept>

namespace rora {

FlatParameters::FlatParameters(std::vector<at::Tensor> parameters) : parameters_(std::move(parameters)) {
  if (parameters_.empty()) {
    throw std::invalid_argument("there is no parameter to train");
  }
  int64_t size = 0;
  for (const at::Tensor& each : parameters_) {
    if (each.scalar_type() != parameters_[0].scalar_type() || each.device() != parameters_[0].device()) {
      throw std::invalid_argument("the parameters to train must be of one dtype and on one device");
    }
    size += each.numel();
  }
  at::NoGradGuard no_grad;
  values_ = at::empty({size}, parameters_[0].options().requires_grad(false));
  gradients_ = at::zeros_like(values_);
  int64_t begin = 0;
  for (at::Tensor& each : parameters_) {
    const at::Tensor view = values_.narrow(0, begin, each.numel()).view(each.sizes());
    view.copy_(each);
    each.set_data(view);
    each.mutable_grad() = gradients_.narrow(0, begin, each.numel()).view(each.sizes());
    begin += each.numel();
  }
}

void FlatParameters::zero_grad() {
  gradients_.zero_();
}

void FlatParameters::mark_changed() {
  for (const at::Tensor& each : parameters_) {
    each.unsafeGetTensorImpl()->bump_version();
  }
}

at::Tensor FlatParameters::clip_gradients(double max_norm) {
  constexpr double kAddend = 1e-6;
  const at::Tensor norm = gradients_.norm();
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
