#pragma once

#include <rora/core/adapter.h>
#include <rora/core/adapter_slot.h>
#include <rora/core/linear_weight.h>
#include <rora/core/low_rank_linear.h>

#include <c10/util/Exception.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace rora {

/// A linear map y = W·x + bias with a frozen weight and a slot for adapters (`AdapterSlot`).
///
/// Without an active adapter the projection is its frozen layer and costs what that costs. `weight` `[out, in]` and `bias`
/// `[out]` carry Hugging Face's keys; they do not require gradients until asked to (pre-training). `weight` is undefined
/// where W is not dense: the buffers of its storage (`LinearWeight`) then stand below the key `weight`.
///
/// As a module: `clone()` copies weight, storage and adapters; `to(dtype)` brings a dense weight and the bias to that dtype
/// and leaves adapters in fp32 (fp64 for fp64); `torch::save` writes the base weight and the adapters' tensors, and throws
/// while an adapter is merged, as `torch::load` does. A `weight` that is assigned anew is the base from then on.
class ProjectionImpl : public torch::nn::Cloneable<ProjectionImpl> {
 public:
  /// A weight of the given sizes, uninitialised: to be loaded or `torch::nn::init`-ed.
  ProjectionImpl(int64_t in_features, int64_t out_features, bool bias = false)
      : ProjectionImpl(at::empty({out_features, in_features}), bias ? at::empty({out_features}) : at::Tensor()) {}

  /// Takes over `weight` `[out, in]` and `bias` `[out]` (or undefined) themselves, without a copy, and freezes them.
  explicit ProjectionImpl(const at::Tensor& weight, const at::Tensor& bias = {}) {
    TORCH_CHECK_VALUE(weight.dim() == 2, "a projection's weight is [out, in], not ", weight.sizes());
    this->weight = register_parameter("weight", leaf(weight), /*requires_grad=*/false);
    if (bias.defined()) {
      TORCH_CHECK_VALUE(
          bias.dim() == 1 && bias.size(0) == weight.size(0), "a bias for ", weight.sizes(), " is not ", bias.sizes());
      this->bias = register_parameter("bias", leaf(bias), /*requires_grad=*/false);
    }
    base_ = std::make_shared<ops::DenseWeight>(this->weight);
  }

  /// For `clone`: new tensors and new adapters of the same kinds, to be filled.
  void reset() override {
    const bool dense = weight.defined();
    if (dense) {
      weight = register_parameter("weight", at::empty({0, 0}, weight.options()), weight.requires_grad());
      base_ = std::make_shared<ops::DenseWeight>(weight);
    } else {
      base_ = register_module("weight", base_->empty_copy());
    }
    if (bias.defined()) {
      bias = register_parameter("bias", at::empty({0}, bias.options()), bias.requires_grad());
    }
    if (original_) {
      original_ = original_->weight.defined()
          ? Original{original_->weight.clone(), std::make_shared<ops::DenseWeight>(weight)}
          : Original{{}, std::static_pointer_cast<ops::LinearWeight>(original_->base->clone())};
    }
    for (const auto& [name, adapter] : std::map(slot_.adapters())) {
      slot_.replace(name, register_module(name, adapter->empty_copy()));
    }
    slot_.activate(slot_.active_name());
  }

  /// W and bias uniform in ±1/√in, as `torch::nn::Linear`'s. Throws for a weight that is not dense.
  virtual void reset_parameters() {
    TORCH_CHECK_VALUE(weight.defined(), "only a dense weight is initialised");
    const double bound = 1.0 / std::sqrt(static_cast<double>(in_features()));
    at::NoGradGuard no_grad;
    weight.uniform_(-bound, bound);
    if (bias.defined()) {
      bias.uniform_(-bound, bound);
    }
  }

  int64_t in_features() const {
    return base().in_features();
  }
  int64_t out_features() const {
    return base().out_features();
  }

  /// x `[..., in]` → `[..., out]`. Throws for an x that is not of floating point or of another size.
  at::Tensor forward(const at::Tensor& x) {
    TORCH_CHECK_TYPE(x.is_floating_point(), "a projection's input is of floating point, not ", x.scalar_type());
    TORCH_CHECK_VALUE(
        x.dim() >= 1 && x.size(-1) == in_features(), "a projection's input is [..., in_features], in_features = ",
        in_features(), ", not ", x.sizes());
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
    term.weight = current_base();
    term.bias = bias;
    if (weight.defined() && weight.requires_grad()) {
      term.trainable_weight = weight;
    }
    return term;
  }

  /// y = W·x + bias, whatever adapter is active.
  at::Tensor forward_frozen(const at::Tensor& x) const {
    return ops::low_rank_linear(x, {frozen_term()})[0];
  }

  /// W behind its storage, as it is read now.
  const ops::LinearWeight& base() const {
    return *current_base();
  }

  /// W `[out, in]` as it was loaded, whatever adapter has taken its place; dequantised where it is quantised.
  at::Tensor original_weight() const {
    if (!original_) {
      return base().dense();
    }
    return original_->weight.defined() ? original_->weight : original_->base->dense();
  }

  /// Stores W another way from now on (reordered, quantised); the storage before is given up. The sizes stay. Throws while an
  /// adapter is merged or has rewritten the weight.
  void set_base(std::shared_ptr<ops::LinearWeight> base) {
    TORCH_CHECK_VALUE(!merged(), "unmerge the adapter '", merged_name_, "' before storing the weight another way");
    TORCH_CHECK_VALUE(
        !original_, "the adapter '", active_name(), "' has rewritten the weight: detach it before storing that another way");
    TORCH_CHECK_VALUE(
        base->in_features() == in_features() && base->out_features() == out_features(),
        "a base weight for [", out_features(), ", ", in_features(), "] is not [",
        base->out_features(), ", ", base->in_features(), "]");
    take_base(std::move(base));
  }

  /// How often W was stored another way: what follows from W's values alone is made anew when this changes.
  uint64_t base_version() const {
    current_base();
    return base_version_;
  }

  /// Puts `adapter` into the slot under `name` and makes it the active one. Throws for a name in use.
  void attach(const std::string& name, std::shared_ptr<Adapter> adapter) {
    TORCH_CHECK_VALUE(!merged(), "unmerge the adapter '", merged_name_, "' before attaching another");
    slot_.add(name, adapter);
    register_module(name, std::move(adapter));
    set_active(name);
  }

  /// Takes the adapter of that name out of the slot; none is active afterwards if it was. Throws for an unknown name.
  std::shared_ptr<Adapter> detach(const std::string& name) {
    TORCH_CHECK_VALUE(merged_name_.empty() || merged_name_ != name, "unmerge the adapter '", name, "' before detaching it");
    std::shared_ptr<Adapter> adapter = slot_.remove(name);
    unregister_module(name);
    if (!merged()) {
      use_rewritten_weight();
    }
    return adapter;
  }

  /// Makes the adapter of that name the active one; the empty name makes none active. Throws for an unknown name.
  void activate(const std::string& name) {
    TORCH_CHECK_VALUE(!merged(), "unmerge the adapter '", merged_name_, "' before activating another");
    set_active(name);
  }

  /// The name of the active adapter, or the empty one.
  const std::string& active_name() const {
    return slot_.active_name();
  }

  /// The adapter that `forward` applies: null without an active one, under `DisableAdapters`, or once it is merged.
  Adapter* active_adapter() const {
    return merged() ? nullptr : slot_.active();
  }

  /// The adapter of that name, or null.
  std::shared_ptr<Adapter> adapter(const std::string& name) const {
    return slot_.find(name);
  }

  const std::map<std::string, std::shared_ptr<Adapter>>& adapters() const {
    return slot_.adapters();
  }

  /// Switches the slot off and on; prefer `DisableAdapters`.
  void set_adapters_enabled(bool enabled) {
    TORCH_CHECK_VALUE(!merged(), "unmerge the adapter '", merged_name_, "' before switching adapters off or on");
    slot_.set_enabled(enabled);
    use_rewritten_weight();
  }
  bool adapters_enabled() const {
    return slot_.enabled();
  }

  /// Writes the active adapter into `weight`, from fp32 and rounded once. The base, however it is stored, is kept for
  /// `unmerge`, which is exact. Nothing happens without an active adapter; throws for one that no weight can express.
  void merge() {
    Adapter* adapter = active_adapter();
    if (adapter == nullptr) {
      return;
    }
    at::NoGradGuard no_grad;
    put(adapter->merged_weight(*this));
    merged_name_ = active_name();
  }

  /// Puts the base weight back, bit for bit. Nothing happens where nothing is merged.
  void unmerge() {
    if (merged()) {
      merged_name_.clear();
      use_rewritten_weight();
    }
  }

  bool merged() const {
    return !merged_name_.empty();
  }

  using torch::nn::Cloneable<ProjectionImpl>::to;
  void to(at::Device device, at::ScalarType dtype, bool non_blocking = false) override {
    torch::nn::Module::to(device, dtype, non_blocking);
    convert_original(at::TensorOptions().device(device).dtype(dtype));
  }
  void to(at::ScalarType dtype, bool non_blocking = false) override {
    torch::nn::Module::to(dtype, non_blocking);
    convert_original(at::TensorOptions().dtype(dtype));
  }
  void to(at::Device device, bool non_blocking = false) override {
    torch::nn::Module::to(device, non_blocking);
    convert_original(at::TensorOptions().device(device));
  }

  void save(torch::serialize::OutputArchive& archive) const override {
    TORCH_CHECK_VALUE(!merged(), "unmerge the adapter '", merged_name_, "' before saving the projection");
    auto* self = const_cast<ProjectionImpl*>(this);
    self->put_back(); // what is stored is the base: the adapter rewrites it again
    torch::nn::Module::save(archive);
    self->use_rewritten_weight();
  }
  void load(torch::serialize::InputArchive& archive) override {
    TORCH_CHECK_VALUE(!merged(), "unmerge the adapter '", merged_name_, "' before loading the projection");
    put_back();
    torch::nn::Module::load(archive);
    use_rewritten_weight();
  }

  void pretty_print(std::ostream& stream) const override {
    stream << "rora::Projection(in_features=" << in_features() << ", out_features=" << out_features()
           << ", bias=" << std::boolalpha << bias.defined();
    if (!active_name().empty()) {
      stream << ", active_adapter=" << active_name();
    }
    stream << ")";
  }

  at::Tensor weight; ///< W `[out, in]`; undefined where it is not dense
  at::Tensor bias; ///< `[out]`, undefined where the projection has none

 private:
  /// The base while another weight stands in its place: a merged one, or that of an adapter that rewrites it.
  struct Original {
    at::Tensor weight; ///< undefined where W was not dense
    std::shared_ptr<ops::LinearWeight> base;
  };

  static at::Tensor leaf(const at::Tensor& tensor) {
    return tensor.is_leaf() ? tensor : tensor.detach();
  }

  void set_active(const std::string& name) {
    slot_.activate(name);
    use_rewritten_weight();
  }

  /// The storage of W, which is another once `weight` was assigned anew.
  const std::shared_ptr<ops::LinearWeight>& current_base() const {
    if (weight.defined() && !base_->tensor().is_same(weight)) {
      TORCH_CHECK_VALUE(weight.dim() == 2, "a projection's weight is [out, in], not ", weight.sizes());
      base_ = std::make_shared<ops::DenseWeight>(weight);
      ++base_version_;
    }
    return base_;
  }

  /// Makes `base` the storage of W, and its tensors the module's.
  void take_base(std::shared_ptr<ops::LinearWeight> base) {
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
  void put(const at::Tensor& dense) {
    const bool was_dense = weight.defined();
    if (!original_) {
      original_ = Original{was_dense ? weight.detach() : at::Tensor(), current_base()};
    }
    if (was_dense) {
      weight.set_data(dense);
      base_ = std::make_shared<ops::DenseWeight>(weight);
      ++base_version_;
    } else {
      take_base(std::make_shared<ops::DenseWeight>(dense));
    }
  }

  void put_back() {
    if (!original_) {
      return;
    }
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
  void use_rewritten_weight() {
    at::NoGradGuard no_grad;
    put_back();
    if (const Adapter* adapter = slot_.active()) {
      if (const at::Tensor rewritten = adapter->rewritten_weight(*this); rewritten.defined()) {
        put(rewritten);
      }
    }
  }

  void convert_original(const at::TensorOptions& options) {
    if (original_ && original_->weight.defined()) {
      original_->weight = original_->weight.to(options);
    } else if (original_ && options.has_device()) {
      original_->base->to(options.device());
    }
  }

  mutable std::shared_ptr<ops::LinearWeight> base_;
  mutable uint64_t base_version_ = 0;
  AdapterSlot<Adapter> slot_;
  std::string merged_name_;
  std::optional<Original> original_;
};
TORCH_MODULE(Projection);

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
