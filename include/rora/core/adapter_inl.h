#pragma once

#include <rora/core/adapter.h>

#include <ATen/Functions.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>

#include <utility>

namespace rora {

RORA_INLINE bool Adapter::low_rank_term(const ProjectionImpl& projection, ops::LowRankTerm& term) {
  return false;
}

RORA_INLINE at::Tensor Adapter::forward(const ProjectionImpl& projection, const at::Tensor& x) {
  TORCH_CHECK_NOT_IMPLEMENTED(false, "this adapter is neither a low-rank term nor has it a forward of its own");
}

RORA_INLINE bool Adapter::can_merge() const {
  return false;
}

RORA_INLINE at::Tensor Adapter::merged_weight(const ProjectionImpl& projection) const {
  TORCH_CHECK_NOT_IMPLEMENTED(false, "no weight does what this adapter does: it cannot be merged");
}

RORA_INLINE at::Tensor Adapter::rewritten_weight(const ProjectionImpl& projection) const {
  return {};
}

RORA_INLINE bool Adapter::changes_output() const {
  return true;
}

RORA_INLINE std::optional<std::string> Adapter::why_not_captured() const {
  return "an adapter of another kind than LoRA, RoRA and DoRA may decide on the host";
}

RORA_INLINE AdapterMemory Adapter::memory(const ProjectionImpl& projection, bool output_kept) const {
  return {};
}

RORA_INLINE std::vector<LowRankPair> Adapter::pairs() const {
  return {};
}

RORA_INLINE ParameterRole Adapter::role(const std::string& parameter) const {
  return ParameterRole::kOther;
}

RORA_INLINE std::vector<std::pair<std::string, at::Tensor>> Adapter::saved_tensors() const {
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const auto& item : named_parameters()) {
    tensors.emplace_back(item.key(), item.value());
  }
  return tensors;
}

RORA_INLINE void Adapter::set_gradient_buffer(
    const std::string& parameter, std::shared_ptr<ops::GradientBuffer> buffer) {}

RORA_INLINE std::shared_ptr<Adapter> Adapter::empty_copy() const {
  TORCH_CHECK_NOT_IMPLEMENTED(false, "this kind of adapter cannot be cloned");
}

RORA_INLINE std::shared_ptr<torch::nn::Module> Adapter::clone(const std::optional<at::Device>& device) const {
  std::shared_ptr<Adapter> copy = empty_copy();
  copy->copy_tensors(*this, device);
  return copy;
}

RORA_INLINE void Adapter::to(at::Device device, at::ScalarType dtype, bool non_blocking) {
  torch::nn::Module::to(device, wide(dtype), non_blocking);
}

RORA_INLINE void Adapter::to(at::ScalarType dtype, bool non_blocking) {
  torch::nn::Module::to(wide(dtype), non_blocking);
}

RORA_INLINE void Adapter::copy_tensors(const Adapter& other, const std::optional<at::Device>& device) {
  at::NoGradGuard no_grad;
  const auto fill = [&](auto own, const auto& from) {
    for (const auto& item : from) {
      const at::Tensor& tensor = item.value();
      own[item.key()].set_data(device && tensor.device() != *device ? tensor.to(*device) : tensor.clone());
      own[item.key()].set_requires_grad(tensor.requires_grad());
    }
  };
  fill(named_parameters(), other.named_parameters());
  fill(named_buffers(), other.named_buffers());
  train(other.is_training());
  config = other.config;
}

RORA_INLINE void Adapter::clone_(torch::nn::Module& other, const std::optional<at::Device>& device) {
  copy_tensors(dynamic_cast<const Adapter&>(other), device);
}

} // namespace rora
