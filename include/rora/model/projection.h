#pragma once

#include <rora/model/adapter.h>
#include <rora/model/rms_norm.h>
#include <rora/ops/linear_weight.h>
#include <rora/ops/low_rank_linear.h>
#include <rora/ops/rms_norm_shrink.h>

#include <c10/util/Exception.h>
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace rora {

/// A linear map y = W·x + bias with a frozen weight and a slot for an adapter.
///
/// The slot holds adapters by name, at most one of them active: that one's parameters require gradients, those of the
/// others do not. Without an active adapter the projection is its frozen layer and costs what that costs. `weight`
/// `[out, in]` and `bias` `[out]` carry Hugging Face's keys; they do not require gradients until asked to
/// (pre-training).
class ProjectionImpl : public torch::nn::Module {
 public:
  /// A weight of the given sizes, uninitialised: to be loaded or `torch::nn::init`-ed.
  ProjectionImpl(int64_t in_features, int64_t out_features, bool bias = false)
      : ProjectionImpl(at::empty({out_features, in_features}), bias ? at::empty({out_features}) : at::Tensor()) {}

  /// Takes over `weight` `[out, in]` and `bias` `[out]` (or undefined) without a copy.
  explicit ProjectionImpl(const at::Tensor& weight, const at::Tensor& bias = {}) {
    TORCH_CHECK_VALUE(weight.dim() == 2, "a projection's weight is [out, in], not ", weight.sizes());
    this->weight = register_parameter("weight", weight.detach(), /*requires_grad=*/false);
    if (bias.defined()) {
      TORCH_CHECK_VALUE(
          bias.dim() == 1 && bias.size(0) == weight.size(0), "a bias for ", weight.sizes(), " is not ", bias.sizes());
      this->bias = register_parameter("bias", bias.detach(), /*requires_grad=*/false);
    }
    base_ = c10::make_intrusive<ops::DenseWeight>(this->weight);
  }

  int64_t in_features() const {
    return base_->in_features();
  }
  int64_t out_features() const {
    return base_->out_features();
  }

  /// x `[..., in]` → `[..., out]`.
  at::Tensor forward(const at::Tensor& x) {
    Adapter* adapter = active_adapter();
    ops::LowRankTerm term = frozen_term();
    if (adapter == nullptr || adapter->low_rank_term(*this, term)) {
      return ops::low_rank_linear(x, {term})[0];
    }
    return adapter->forward(*this, x);
  }

  /// The projection without its adapter, for `low_rank_linear`.
  ops::LowRankTerm frozen_term() const {
    ops::LowRankTerm term;
    term.weight = base_;
    term.bias = bias;
    if (weight.defined() && weight.requires_grad()) {
      term.trainable_weight = weight;
    }
    return term;
  }

  /// W behind its storage.
  const ops::LinearWeight& base() const {
    return *base_;
  }

  /// Stores W another way from now on (reordered, quantised). The sizes stay. Throws while an adapter is merged.
  void set_base(c10::intrusive_ptr<ops::LinearWeight> base) {
    TORCH_CHECK_VALUE(!merged(), "unmerge the adapter '", merged_name_, "' before storing the weight another way");
    TORCH_CHECK_VALUE(
        base->in_features() == in_features() && base->out_features() == out_features(),
        "a base weight for [", out_features(), ", ", in_features(), "] is not [",
        base->out_features(), ", ", base->in_features(), "]");
    base_ = std::move(base);
    ++base_version_;
  }

  /// How often W was stored another way: what follows from W's values alone is made anew when this changes.
  uint64_t base_version() const {
    return base_version_;
  }

  /// Puts `adapter` into the slot under `name` and makes it the active one. Throws for a name in use.
  void attach(const std::string& name, std::shared_ptr<Adapter> adapter) {
    TORCH_CHECK_VALUE(!adapters_.count(name), "an adapter named '", name, "' is attached already");
    TORCH_CHECK_VALUE(!merged(), "unmerge the adapter '", merged_name_, "' before attaching another");
    register_module(name, adapter);
    adapters_[name] = std::move(adapter);
    set_active(name);
  }

  /// Takes the adapter of that name out of the slot; none is active afterwards if it was. Throws for an unknown name.
  std::shared_ptr<Adapter> detach(const std::string& name) {
    std::shared_ptr<Adapter> adapter = require(name);
    TORCH_CHECK_VALUE(merged_name_ != name, "unmerge the adapter '", name, "' before detaching it");
    unregister_module(name);
    adapters_.erase(name);
    if (active_ == name) {
      active_.clear();
    }
    return adapter;
  }

  /// Makes the adapter of that name the active one; the empty name makes none active. Throws for an unknown name.
  void activate(const std::string& name) {
    if (!name.empty()) {
      require(name);
    }
    TORCH_CHECK_VALUE(!merged(), "unmerge the adapter '", merged_name_, "' before activating another");
    set_active(name);
  }

  /// The name of the active adapter, or the empty one.
  const std::string& active_name() const {
    return active_;
  }

  /// The adapter that `forward` applies: null without an active one, under `DisableAdapters`, or once it is merged.
  Adapter* active_adapter() const {
    return active_.empty() || !enabled_ || merged() ? nullptr : adapters_.at(active_).get();
  }

  /// The adapter of that name, or null.
  std::shared_ptr<Adapter> adapter(const std::string& name) const {
    const auto found = adapters_.find(name);
    return found == adapters_.end() ? nullptr : found->second;
  }

  const std::map<std::string, std::shared_ptr<Adapter>>& adapters() const {
    return adapters_;
  }

  /// Switches the slot off and on; prefer `DisableAdapters`.
  void set_adapters_enabled(bool enabled) {
    TORCH_CHECK_VALUE(!merged(), "unmerge the adapter '", merged_name_, "' before switching adapters off or on");
    enabled_ = enabled;
  }
  bool adapters_enabled() const {
    return enabled_;
  }

  /// Writes the active adapter into `weight`, from fp32 and rounded once. The base, however it is stored, is kept for
  /// `unmerge`, which is exact. Nothing happens without an active adapter.
  void merge() {
    Adapter* adapter = active_adapter();
    if (adapter == nullptr) {
      return;
    }
    at::NoGradGuard no_grad;
    at::Tensor merged_weight = adapter->merged_weight(*this);
    unmerged_weight_ = weight.detach();
    unmerged_base_ = base_;
    weight.set_data(merged_weight);
    base_ = c10::make_intrusive<ops::DenseWeight>(weight);
    merged_name_ = active_;
  }

  /// Puts the base weight back, bit for bit. Nothing happens where nothing is merged.
  void unmerge() {
    if (!merged()) {
      return;
    }
    weight.set_data(unmerged_weight_);
    unmerged_weight_ = at::Tensor();
    base_ = std::move(unmerged_base_);
    merged_name_.clear();
  }

  bool merged() const {
    return !merged_name_.empty();
  }

  void pretty_print(std::ostream& stream) const override {
    stream << "rora::Projection(in_features=" << in_features() << ", out_features=" << out_features()
           << ", bias=" << std::boolalpha << bias.defined();
    if (!active_.empty()) {
      stream << ", active_adapter=" << active_;
    }
    stream << ")";
  }

  at::Tensor weight; ///< W `[out, in]`
  at::Tensor bias; ///< `[out]`, undefined where the projection has none

 private:
  std::shared_ptr<Adapter> require(const std::string& name) const {
    const auto found = adapters_.find(name);
    TORCH_CHECK_VALUE(found != adapters_.end(), "no adapter named '", name, "' is attached");
    return found->second;
  }

  /// An optimiser over the parameters that require gradients must not decay an adapter that does nothing.
  void set_active(const std::string& name) {
    active_ = name;
    for (const auto& [each, adapter] : adapters_) {
      for (const at::Tensor& parameter : adapter->parameters()) {
        parameter.set_requires_grad(each == name);
      }
    }
  }

  c10::intrusive_ptr<ops::LinearWeight> base_;
  uint64_t base_version_ = 0;
  std::map<std::string, std::shared_ptr<Adapter>> adapters_;
  std::string active_;
  bool enabled_ = true;
  std::string merged_name_;
  at::Tensor unmerged_weight_;
  c10::intrusive_ptr<ops::LinearWeight> unmerged_base_;
};
TORCH_MODULE(Projection);

namespace detail {

/// The projections as terms of one graph node; none where an adapter among them computes another way.
inline std::optional<std::vector<ops::LowRankTerm>> terms_together(std::initializer_list<ProjectionImpl*> projections) {
  std::vector<ops::LowRankTerm> terms;
  for (ProjectionImpl* projection : projections) {
    terms.push_back(projection->frozen_term());
    Adapter* adapter = projection->active_adapter();
    if (adapter != nullptr && !adapter->low_rank_term(*projection, terms.back())) {
      return std::nullopt;
    }
  }
  return terms;
}

/// `project_norm` of terms that take one Ŝ: the norm forms it.
inline std::vector<at::Tensor> project_norm_with_shrunk(
    RMSNormImpl& norm, ResidualStream& stream, std::vector<ops::LowRankTerm> terms) {
  const at::Tensor a = [&] {
    at::NoGradGuard no_grad; // A's gradient comes from the terms
    return ops::detail::side_by_side(terms, ops::detail::LowRankForm::of_device(stream.states));
  }();
  auto [sum, y, shrunk] =
      ops::add_rms_norm_shrink(stream.states, stream.change, norm.weight, norm.eps, a, terms[0].scale);
  stream = {std::move(sum)};
  return ops::low_rank_linear(y, std::move(terms), shrunk);
}

} // namespace detail

/// The outputs of projections that read the same x `[..., in]` (q, k and v; gate and up), in their order: one graph node
/// where all of them are low-rank or frozen.
inline std::vector<at::Tensor> project_together(const at::Tensor& x, std::initializer_list<ProjectionImpl*> projections) {
  if (auto terms = detail::terms_together(projections)) {
    return ops::low_rank_linear(x, std::move(*terms));
  }
  std::vector<at::Tensor> outputs;
  for (ProjectionImpl* each : projections) {
    outputs.push_back(each->forward(x));
  }
  return outputs;
}

/// `project_together` of the norm of the stream's sum, which becomes its states. On a GPU, the norm forms what the low-rank
/// branches share as it writes its result, where they share it; not on the CPU, where that would save nothing.
inline std::vector<at::Tensor> project_norm(
    RMSNormImpl& norm, ResidualStream& stream, std::initializer_list<ProjectionImpl*> projections) {
  if (stream.states.is_cuda()) {
    auto terms = detail::terms_together(projections);
    if (terms && ops::detail::takes_shrunk(*terms)) {
      return detail::project_norm_with_shrunk(norm, stream, std::move(*terms));
    }
    if (terms) {
      return ops::low_rank_linear(norm.forward(stream), std::move(*terms));
    }
  }
  return project_together(norm.forward(stream), projections);
}

/// Runs every projection below `module` as its frozen layer while the guard lives. Throws where one is merged, and then
/// leaves all as they were.
class DisableAdapters {
 public:
  explicit DisableAdapters(torch::nn::Module& module) {
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
  ~DisableAdapters() {
    for (ProjectionImpl* projection : projections_) {
      projection->set_adapters_enabled(true);
    }
  }
  DisableAdapters(const DisableAdapters&) = delete;
  DisableAdapters& operator=(const DisableAdapters&) = delete;

 private:
  std::vector<ProjectionImpl*> projections_;
};

} // namespace rora
