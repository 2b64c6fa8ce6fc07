#pragma once

#include <c10/util/Exception.h>
#include <torch/nn/module.h>

#include <map>
#include <memory>
#include <string>
#include <utility>

namespace rora {

/// Adapters by name in one place of a model, at most one of them active: that one's parameters require gradients, those
/// of the others do not. A is a `torch::nn::Module`.
template <class A>
class AdapterSlot {
 public:
  /// Makes `adapter` one of the slot's. Throws for a name in use and for one that is no module's: empty, or with a dot.
  void add(const std::string& name, std::shared_ptr<A> adapter) {
    TORCH_CHECK_VALUE(adapter != nullptr, "there is no adapter to attach as '", name, "'");
    TORCH_CHECK_VALUE(
        !name.empty() && name.find('.') == std::string::npos, "an adapter's name is neither empty nor has a dot: '",
        name, "'");
    TORCH_CHECK_VALUE(!adapters_.count(name), "an adapter named '", name, "' is attached already");
    adapters_[name] = std::move(adapter);
  }

  /// Takes the adapter of that name out; none is active afterwards if it was. Throws for an unknown name.
  std::shared_ptr<A> remove(const std::string& name) {
    std::shared_ptr<A> adapter = require(name);
    adapters_.erase(name);
    if (active_ == name) {
      active_.clear();
    }
    return adapter;
  }

  /// Puts another adapter in the place of that name: a copy of it.
  void replace(const std::string& name, std::shared_ptr<A> adapter) {
    require(name);
    adapters_[name] = std::move(adapter);
  }

  /// Makes the adapter of that name the active one; the empty name makes none active. The others get no gradients any
  /// more, not even from a graph that they are part of already. Throws for an unknown name.
  void activate(const std::string& name) {
    if (!name.empty()) {
      require(name);
    }
    active_ = name;
    // An optimiser over the parameters that require gradients must not decay an adapter that does nothing.
    for (const auto& [each, adapter] : adapters_) {
      for (const at::Tensor& parameter : adapter->parameters()) {
        parameter.set_requires_grad(each == name);
      }
    }
  }

  /// The name of the active adapter, or the empty one.
  const std::string& active_name() const {
    return active_;
  }

  /// The adapter that takes part: null without an active one, or while the slot is switched off.
  A* active() const {
    return active_.empty() || !enabled_ ? nullptr : adapters_.at(active_).get();
  }

  /// The adapter of that name, or null.
  std::shared_ptr<A> find(const std::string& name) const {
    const auto found = adapters_.find(name);
    return found == adapters_.end() ? nullptr : found->second;
  }

  const std::map<std::string, std::shared_ptr<A>>& adapters() const {
    return adapters_;
  }

  void set_enabled(bool enabled) {
    enabled_ = enabled;
  }
  bool enabled() const {
    return enabled_;
  }

 private:
  std::shared_ptr<A> require(const std::string& name) const {
    std::shared_ptr<A> found = find(name);
    TORCH_CHECK_VALUE(found != nullptr, "no adapter named '", name, "' is attached");
    return found;
  }

  std::map<std::string, std::shared_ptr<A>> adapters_;
  std::string active_;
  bool enabled_ = true;
};

} // namespace rora
