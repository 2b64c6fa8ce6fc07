#pragma once

#include <rora/core/low_rank_linear.h>
#include <rora/core/projection.h>
#include <rora/core/tensors_before.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>
#include <torch/serialize/archive.h>

#include <cmath>
#include <ostream>
#include <utility>

namespace rora {
namespace detail {

inline at::Tensor as_leaf(const at::Tensor& tensor) {
  return tensor.is_leaf() ? tensor : tensor.detach();
}

} // namespace detail

RORA_INLINE ProjectionImpl::ProjectionImpl(int64_t in_features, int64_t out_features, bool bias)
    : ProjectionImpl(at::empty({out_features, in_features}), bias ? at::empty({out_features}) : at::Tensor()) {}

RORA_INLINE ProjectionImpl::ProjectionImpl(const at::Tensor& weight, const at::Tensor& bias) {
  TORCH_CHECK_VALUE(weight.dim() == 2, "a projection's weight is [out, in], not ", weight.sizes());
  this->weight = register_parameter("weight", detail::as_leaf(weight), /*requires_grad=*/false);
  if (bias.defined()) {
    TORCH_CHECK_VALUE(
        bias.dim() == 1 && bias.size(0) == weight.size(0), "a bias for ", weight.sizes(), " is not ", bias.sizes());
    this->bias = register_parameter("bias", detail::as_leaf(bias), /*requires_grad=*/false);
  }
  base_ = std::make_shared<ops::DenseWeight>(this->weight);
}

RORA_INLINE void ProjectionImpl::reset() {
  if (weight.defined()) {
    weight = register_parameter("weight", at::empty({0, 0}, weight.options()), weight.requires_grad());
    base_ = std::make_shared<ops::DenseWeight>(weight);
  } else {
    base_ = register_module("weight", base_->empty_copy());
  }
  if (bias.defined()) {
    bias = register_parameter("bias", at::empty({0}, bias.options()), bias.requires_grad());
  }
  if (original_ && original_->weight.defined()) {
    original_ = Original{original_->weight.clone(), std::make_shared<ops::DenseWeight>(weight)};
  } else if (original_) {
    original_ = Original{{}, std::static_pointer_cast<ops::LinearWeight>(original_->base->clone())};
  }
  for (const auto& [name, adapter] : std::map(slot_.adapters())) {
    slot_.replace(name, register_module(name, adapter->empty_copy()));
  }
}

RORA_INLINE std::shared_ptr<torch::nn::Module> ProjectionImpl::clone(const std::optional<at::Device>& device) const {
  current_base(); // a weight that was assigned is taken over before it is copied
  auto copy = torch::nn::Cloneable<ProjectionImpl>::clone(device);
  if (device) {
    std::static_pointer_cast<ProjectionImpl>(copy)->convert_original(at::TensorOptions().device(*device));
  }
  return copy;
}

RORA_INLINE void ProjectionImpl::reset_parameters() {
  check_not_merged("initialising the weight");
  put_back();
  TORCH_CHECK_VALUE(weight.defined(), "only a dense weight is initialised");
  const double bound = 1.0 / std::sqrt(static_cast<double>(in_features()));
  at::NoGradGuard no_grad;
  weight.uniform_(-bound, bound);
  if (bias.defined()) {
    bias.uniform_(-bound, bound);
  }
  use_rewritten_weight();
}

RORA_INLINE int64_t ProjectionImpl::in_features() const {
  return base().in_features();
}

RORA_INLINE int64_t ProjectionImpl::out_features() const {
  return base().out_features();
}

RORA_INLINE at::Tensor ProjectionImpl::forward(const at::Tensor& x) {
  check_input(x);
  Adapter* adapter = active_adapter();
  ops::LowRankTerm term = frozen_term();
  if (adapter == nullptr || adapter->low_rank_term(*this, term)) {
    return ops::low_rank_linear(x, {term})[0];
  }
  return adapter->forward(*this, x);
}

RORA_INLINE ops::LowRankTerm ProjectionImpl::frozen_term() const {
  ops::LowRankTerm term;
  term.weight = current_base();
  term.bias = bias;
  if (weight.defined() && weight.requires_grad()) {
    term.trainable_weight = weight;
  }
  return term;
}

RORA_INLINE at::Tensor ProjectionImpl::forward_frozen(const at::Tensor& x) const {
  check_input(x);
  return ops::low_rank_linear(x, {frozen_term()})[0];
}

RORA_INLINE const ops::LinearWeight& ProjectionImpl::base() const {
  return *current_base();
}

RORA_INLINE std::shared_ptr<const ops::LinearWeight> ProjectionImpl::original_base() const {
  if (!original_) {
    return current_base();
  }
  // A dense base reads `weight`, whose values are another's now.
  return original_->weight.defined() ? std::make_shared<ops::DenseWeight>(original_->weight) : original_->base;
}

RORA_INLINE at::Tensor ProjectionImpl::original_weight() const {
  return original_base()->dense();
}

RORA_INLINE void ProjectionImpl::set_base(std::shared_ptr<ops::LinearWeight> base) {
  check_not_merged("storing the weight another way");
  TORCH_CHECK_VALUE(
      !original_, "the adapter '", active_name(),
      "' has rewritten the weight: detach it before storing that another way");
  TORCH_CHECK_VALUE(
      base != nullptr && base->in_features() == in_features() && base->out_features() == out_features(),
      "a base weight for [", out_features(), ", ", in_features(), "] is not ", base == nullptr ? "null" : "[",
      base == nullptr ? "" : c10::str(base->out_features(), ", ", base->in_features(), "]"));
  take_base(std::move(base));
}

RORA_INLINE uint64_t ProjectionImpl::base_version() const {
  current_base();
  return base_version_;
}

RORA_INLINE void ProjectionImpl::attach(const std::string& name, std::shared_ptr<Adapter> adapter) {
  check_not_merged("attaching another");
  TORCH_CHECK_VALUE(
      name != "weight" && name != "bias", "an adapter cannot be named '", name, "' as the projection's own");
  for (const LowRankPair& pair : adapter != nullptr ? adapter->pairs() : std::vector<LowRankPair>()) {
    TORCH_CHECK_VALUE(
        pair.a.size(1) == in_features() && pair.b.size(0) == out_features(), "the adapter '", name, "' for [",
        pair.b.size(0), ", ", pair.a.size(1), "] is none for [", out_features(), ", ", in_features(), "]");
  }
  const std::string before = active_name();
  slot_.add(name, adapter);
  try {
    register_module(name, adapter);
    adapter->train(is_training());
    set_active(name);
  } catch (...) {
    slot_.remove(name);
    if (named_children().contains(name)) {
      unregister_module(name);
    }
    set_active(before);
    throw;
  }
}

RORA_INLINE std::shared_ptr<Adapter> ProjectionImpl::detach(const std::string& name) {
  TORCH_CHECK_VALUE(
      merged_name_.empty() || merged_name_ != name, "unmerge the adapter '", name, "' before detaching it");
  std::shared_ptr<Adapter> adapter = slot_.remove(name);
  unregister_module(name);
  if (!merged()) {
    use_rewritten_weight();
  }
  return adapter;
}

RORA_INLINE void ProjectionImpl::activate(const std::string& name) {
  check_not_merged("activating another");
  set_active(name);
}

RORA_INLINE const std::string& ProjectionImpl::active_name() const {
  return slot_.active_name();
}

RORA_INLINE Adapter* ProjectionImpl::active_adapter() const {
  return merged() ? nullptr : slot_.active();
}

RORA_INLINE std::shared_ptr<Adapter> ProjectionImpl::adapter(const std::string& name) const {
  return slot_.find(name);
}

RORA_INLINE const std::map<std::string, std::shared_ptr<Adapter>>& ProjectionImpl::adapters() const {
  return slot_.adapters();
}

RORA_INLINE void ProjectionImpl::set_adapters_enabled(bool enabled) {
  check_not_merged("switching adapters off or on");
  slot_.set_enabled(enabled);
  use_rewritten_weight();
}

RORA_INLINE bool ProjectionImpl::adapters_enabled() const {
  return slot_.enabled();
}

RORA_INLINE void ProjectionImpl::merge() {
  Adapter* adapter = active_adapter();
  if (adapter == nullptr) {
    return;
  }
  at::NoGradGuard no_grad;
  put(adapter->merged_weight(*this));
  merged_name_ = active_name();
}

RORA_INLINE void ProjectionImpl::unmerge() {
  if (merged()) {
    current_base(); // throws where the weight was assigned meanwhile
    merged_name_.clear();
    use_rewritten_weight();
  }
}

RORA_INLINE bool ProjectionImpl::merged() const {
  return !merged_name_.empty();
}

RORA_INLINE void ProjectionImpl::to(at::Device device, at::ScalarType dtype, bool non_blocking) {
  current_base();
  torch::nn::Module::to(device, dtype, non_blocking);
  convert_original(at::TensorOptions().device(device).dtype(dtype));
}

RORA_INLINE void ProjectionImpl::to(at::ScalarType dtype, bool non_blocking) {
  current_base();
  torch::nn::Module::to(dtype, non_blocking);
  convert_original(at::TensorOptions().dtype(dtype));
}

RORA_INLINE void ProjectionImpl::to(at::Device device, bool non_blocking) {
  current_base();
  torch::nn::Module::to(device, non_blocking);
  convert_original(at::TensorOptions().device(device));
}

RORA_INLINE void ProjectionImpl::save(torch::serialize::OutputArchive& archive) const {
  check_not_merged("saving the projection");
  current_base();
  // As Module::save, with the base in the weight's place: the adapter that is read again rewrites it again. The archive
  // reads tensors only when it is written out, so that putting the base back meanwhile would not do. A weight that is
  // part of a larger block of memory is copied: the archive would hold the whole block.
  const at::NoGradGuard no_grad;
  constexpr auto whole = at::MemoryFormat::Contiguous;
  const at::Tensor dense = original_ ? original_->weight : weight;
  for (const auto& parameter : named_parameters(/*recurse=*/false)) {
    if (parameter.key() != "weight") {
      archive.write(parameter.key(), parameter.value());
    } else if (dense.defined()) {
      archive.write(parameter.key(), dense.storage().nbytes() == dense.nbytes() ? dense : dense.clone(whole));
    }
  }
  const auto write_child = [&archive](const std::string& name, const torch::nn::Module& child) {
    torch::serialize::OutputArchive child_archive(archive.compilation_unit());
    child.save(child_archive);
    archive.write(name, child_archive);
  };
  if (original_ && !original_->weight.defined()) {
    write_child("weight", *original_->base);
  }
  for (const auto& child : named_children()) {
    write_child(child.key(), *child.value());
  }
}

RORA_INLINE void ProjectionImpl::load(torch::serialize::InputArchive& archive) {
  check_not_merged("loading the projection");
  current_base();
  put_back();
  detail::TensorsBefore before(*this);
  try {
    torch::nn::Module::load(archive);
    before.check_sizes();
  } catch (...) {
    before.put_back();
    ++base_version_;
    use_rewritten_weight();
    throw;
  }
  ++base_version_;
  use_rewritten_weight();
}

RORA_INLINE void ProjectionImpl::pretty_print(std::ostream& stream) const {
  stream << "rora::Projection(in_features=" << in_features() << ", out_features=" << out_features()
         << ", bias=" << std::boolalpha << bias.defined();
  if (!active_name().empty()) {
    stream << ", active_adapter=" << active_name();
  }
  stream << ")";
}

RORA_INLINE void ProjectionImpl::check_input(const at::Tensor& x) const {
  TORCH_CHECK_TYPE(x.is_floating_point(), "a projection's input is of floating point, not ", x.scalar_type());
  TORCH_CHECK_VALUE(
      x.dim() >= 1 && x.size(-1) == in_features(),
      "a projection's input is [..., in_features], in_features = ", in_features(), ", not ", x.sizes());
}

RORA_INLINE void ProjectionImpl::check_not_merged(const char* before) const {
  TORCH_CHECK_VALUE(!merged(), "unmerge the adapter '", merged_name_, "' before ", before);
}

RORA_INLINE void ProjectionImpl::set_active(const std::string& name) {
  slot_.activate(name);
  use_rewritten_weight();
}

/// The storage of W, which is another once `weight` was assigned anew.
RORA_INLINE const std::shared_ptr<ops::LinearWeight>& ProjectionImpl::current_base() const {
  if (weight.defined() && !base_->tensor().is_same(weight)) {
    // An assignment has changed the module already; what follows from it is noticed at the next look.
    const_cast<ProjectionImpl*>(this)->adopt_assigned_weight();
  }
  return base_;
}

RORA_INLINE void ProjectionImpl::adopt_assigned_weight() {
  TORCH_CHECK_VALUE(
      !original_, "the weight was assigned anew while the adapter '", active_name(),
      "' stands in it: unmerge or detach that before");
  TORCH_CHECK_VALUE(
      weight.dim() == 2 && weight.size(0) == base_->out_features() && weight.size(1) == base_->in_features(),
      "a weight assigned to a projection of [", base_->out_features(), ", ", base_->in_features(), "] is not ",
      weight.sizes());
  if (!base_->tensor().defined()) {
    unregister_module("weight");
  }
  if (parameters_.contains("weight")) {
    parameters_["weight"] = weight;
  } else {
    parameters_.insert("weight", weight);
  }
  base_ = std::make_shared<ops::DenseWeight>(weight);
  ++base_version_;
}

/// Makes `base` the storage of W, and its tensors the module's.
RORA_INLINE void ProjectionImpl::take_base(std::shared_ptr<ops::LinearWeight> base) {
  if (!weight.defined()) {
    unregister_module("weight");
  } else if (!base->tensor().is_same(weight)) {
    parameters_.erase("weight");
  }
  weight = base->tensor();
  if (!weight.defined()) {
    register_module("weight", base);
  } else if (!parameters_.contains("weight")) {
    register_parameter("weight", weight, weight.requires_grad());
  }
  base_ = std::move(base);
  ++base_version_;
}

/// Puts `dense` in the base's place, which is kept.
RORA_INLINE void ProjectionImpl::put(const at::Tensor& dense) {
  const auto before = current_base();
  const bool was_dense = weight.defined();
  if (!original_) {
    original_ = Original{was_dense ? weight.detach() : at::Tensor(), before};
  }
  if (was_dense) {
    weight.set_data(dense);
    base_ = std::make_shared<ops::DenseWeight>(weight);
    ++base_version_;
  } else {
    take_base(std::make_shared<ops::DenseWeight>(dense));
  }
}

RORA_INLINE void ProjectionImpl::put_back() {
  if (!original_) {
    return;
  }
  current_base();
  Original original = *std::exchange(original_, std::nullopt);
  if (original.weight.defined()) {
    weight.set_data(original.weight);
    base_ = std::move(original.base);
    ++base_version_;
  } else {
    take_base(std::move(original.base));
  }
}

/// Gives the active adapter the weight that it works on, and any other the base as it was loaded.
RORA_INLINE void ProjectionImpl::use_rewritten_weight() {
  at::NoGradGuard no_grad;
  put_back();
  if (const Adapter* adapter = slot_.active()) {
    if (const at::Tensor rewritten = adapter->rewritten_weight(*this); rewritten.defined()) {
      put(rewritten);
    }
  }
}

RORA_INLINE void ProjectionImpl::convert_original(const at::TensorOptions& options) {
  ++base_version_;
  if (original_ && original_->weight.defined()) {
    original_->weight = original_->weight.to(options);
  } else if (original_ && options.has_device()) {
    original_->base->to(options.device());
  }
}

RORA_INLINE DisableAdapters::DisableAdapters(torch::nn::Module& module) {
  module.apply([this](torch::nn::Module& each) {
    if (auto* projection = each.as<ProjectionImpl>(); projection != nullptr && projection->adapters_enabled()) {
      TORCH_CHECK_VALUE(!projection->merged(), "unmerge the adapters before switching them off");
      projections_.push_back(projection);
    }
  });
  for (ProjectionImpl* projection : projections_) {
    projection->set_adapters_enabled(false);
  }
}

RORA_INLINE DisableAdapters::~DisableAdapters() {
  for (ProjectionImpl* projection : projections_) {
    projection->set_adapters_enabled(true);
  }
}

} // namespace rora
