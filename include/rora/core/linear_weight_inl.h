#pragma once

#include <rora/core/linear_weight.h>
#include <rora/core/product_of_halves.h>
#include <rora/core/sum_of_products.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>

#include <utility>

namespace rora::ops {

namespace detail {

RORA_INLINE at::Tensor product_of_halves(const at::Tensor& x, const at::Tensor& w) {
  const at::Tensor high = x.to(at::kBFloat16);
  const at::Tensor low = (x - high).to(at::kBFloat16); // the difference is exact
  const at::Tensor halves = sum_of_products({at::cat({high, low})}, {w}, 1.0, std::nullopt, at::kFloat);
  return halves.narrow(0, 0, x.size(0)) + halves.narrow(0, x.size(0), x.size(0));
}

} // namespace detail

RORA_INLINE at::Tensor LinearWeight::tensor() const {
  return {};
}

RORA_INLINE std::shared_ptr<LinearWeight> LinearWeight::empty_copy() const {
  TORCH_CHECK_NOT_IMPLEMENTED(false, "this kind of base weight cannot be cloned");
}

RORA_INLINE std::shared_ptr<torch::nn::Module> LinearWeight::clone(const std::optional<at::Device>& device) const {
  std::shared_ptr<LinearWeight> copy = empty_copy();
  copy->copy_tensors(*this, device);
  return copy;
}

RORA_INLINE void LinearWeight::to(at::Device device, at::ScalarType, bool non_blocking) {
  torch::nn::Module::to(device, non_blocking);
}

RORA_INLINE void LinearWeight::to(at::ScalarType, bool) {}

RORA_INLINE at::Tensor LinearWeight::forward_matrix() const {
  return {};
}

RORA_INLINE at::Tensor LinearWeight::backward_matrix() const {
  return {};
}

RORA_INLINE at::Tensor LinearWeight::beside(int64_t) const {
  return {};
}

RORA_INLINE at::Tensor LinearWeight::below(int64_t) const {
  return {};
}

RORA_INLINE at::Tensor LinearWeight::forward_wide(const at::Tensor& x) const {
  const at::Tensor w = dense().t();
  const bool in_halves = !x.is_cpu() && x.scalar_type() == at::kFloat && w.scalar_type() == at::kBFloat16;
  return in_halves ? detail::product_of_halves(x, w) : sum_of_products({x}, {w});
}

RORA_INLINE int64_t LinearWeight::prepacked_bytes() const {
  return 0;
}

RORA_INLINE void LinearWeight::copy_tensors(const torch::nn::Module& other, const std::optional<at::Device>& device) {
  at::NoGradGuard no_grad;
  auto own = named_buffers();
  for (const auto& item : other.named_buffers()) {
    const at::Tensor& tensor = item.value();
    own[item.key()].set_data(device && tensor.device() != *device ? tensor.to(*device) : tensor.clone());
  }
}

RORA_INLINE void LinearWeight::clone_(torch::nn::Module& other, const std::optional<at::Device>& device) {
  copy_tensors(other, device);
}

RORA_INLINE DenseWeight::DenseWeight(at::Tensor weight) : weight_(std::move(weight)) {}

RORA_INLINE int64_t DenseWeight::in_features() const {
  return weight_.size(1);
}

RORA_INLINE int64_t DenseWeight::out_features() const {
  return weight_.size(0);
}

RORA_INLINE at::ScalarType DenseWeight::dtype() const {
  return weight_.scalar_type();
}

RORA_INLINE at::Device DenseWeight::device() const {
  return weight_.device();
}

RORA_INLINE at::Tensor DenseWeight::tensor() const {
  return weight_;
}

RORA_INLINE at::Tensor DenseWeight::forward_matrix() const {
  return weight_.t();
}

RORA_INLINE at::Tensor DenseWeight::backward_matrix() const {
  return weight_;
}

RORA_INLINE at::Tensor DenseWeight::forward(const at::Tensor& x) const {
  return sum_of_products({x}, {weight_.t()});
}

RORA_INLINE at::Tensor DenseWeight::backward(const at::Tensor& dy) const {
  return sum_of_products({dy}, {weight_});
}

RORA_INLINE at::Tensor DenseWeight::dense() const {
  return weight_;
}

} // namespace rora::ops
