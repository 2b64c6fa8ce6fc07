#pragma once

#include <rora/core/adapter.h>
#include <rora/core/adapter_slot.h>

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

namespace rora {

class AttentionImpl;
class MLPImpl;

/// An adapter of a whole block of a layer, not of one projection's weight: no weight does the same, so that it is never
/// merged. Its parameters are found by the model's `parameters()`, below the block and the adapter's name
/// (`model.layers.0.self_attn.default.prefix_keys`). In fp32, whatever dtype the model is brought to, but for fp64.
class ModuleAdapter : public torch::nn::Module {
 public:
  using torch::nn::Module::to;
  void to(at::Device device, at::ScalarType dtype, bool non_blocking = false) override {
    torch::nn::Module::to(device, dtype == at::kDouble ? at::kDouble : at::kFloat, non_blocking);
  }
  void to(at::ScalarType dtype, bool non_blocking = false) override {
    torch::nn::Module::to(dtype == at::kDouble ? at::kDouble : at::kFloat, non_blocking);
  }

  /// Why a CUDA graph cannot capture it; nothing where one can.
  virtual std::optional<std::string> why_not_captured() const {
    return "an adapter of a whole block may decide on the host";
  }

  /// Null for an adapter that was put into its slot by hand.
  std::shared_ptr<const AdapterConfig> config;
};

/// Gives an attention keys and values in front of each row's own, which all of the row's tokens see (Li and Liang,
/// arXiv 2101.00190). Unless it `takes_positions`, a row's tokens still count from 0 and see it beyond a window.
class AttentionAdapter : public ModuleAdapter {
 public:
  /// Keys, as they are behind rotary positions, and values: each `[prefix, kv_heads, head_dim]`, brought to the model's
  /// dtype by the attention. With a key-value cache they are asked for once, when it is empty.
  virtual std::pair<at::Tensor, at::Tensor> prefix(const AttentionImpl& attention) = 0;

  /// How many keys there are, for what a step needs of memory.
  virtual int64_t prefix_length() const = 0;

  /// Whether its keys count as tokens, as those of PEFT do: the positions of a row's tokens, those of `position_ids`
  /// too, then begin at `prefix_length()`, and a window leaves its keys behind as it does those of tokens. The layers
  /// of a model that have a prefix agree on it.
  virtual bool takes_positions() const {
    return false;
  }
};

/// Takes an MLP's place, or goes beside it.
class MLPAdapter : public ModuleAdapter {
 public:
  /// Of the normed states x `[batch, seq, hidden]`: what the layer adds to its states, of the same shape.
  /// `mlp.forward(x)` is the MLP without this adapter.
  virtual at::Tensor forward(MLPImpl& mlp, const at::Tensor& x) = 0;

  /// Numbers that it keeps for its backward, a token, beside x and what the MLP keeps.
  virtual int64_t kept_numbers(const MLPImpl& mlp) const = 0;
};

/// A block with a slot for adapters of kind A, beside those of its projections. As in a projection's, at most one is
/// active.
template <class A>
class AdaptedModule : public torch::nn::Module {
 public:
  /// Puts `adapter` into the slot under `name` and makes it the active one. Throws for a name in use, here or of a
  /// part of the block.
  void attach(const std::string& name, std::shared_ptr<A> adapter) {
    TORCH_CHECK_VALUE(!named_children().contains(name), "'", name, "' names a part of the block already");
    slot_.add(name, adapter);
    register_module(name, std::move(adapter));
    slot_.activate(name);
  }

  /// Takes the adapter of that name out of the slot; none is active afterwards if it was. Throws for an unknown name.
  std::shared_ptr<A> detach(const std::string& name) {
    std::shared_ptr<A> adapter = slot_.remove(name);
    unregister_module(name);
    return adapter;
  }

  /// Makes the adapter of that name the active one; the empty name makes none active. Throws for an unknown name.
  void activate(const std::string& name) {
    slot_.activate(name);
  }

  /// The name of the active adapter, or the empty one.
  const std::string& active_name() const {
    return slot_.active_name();
  }

  /// The adapter that `forward` asks: null without an active one, or while the slot is switched off.
  A* active_adapter() const {
    return slot_.active();
  }

  /// The adapter of that name, or null.
  std::shared_ptr<A> adapter(const std::string& name) const {
    return slot_.find(name);
  }

  const std::map<std::string, std::shared_ptr<A>>& adapters() const {
    return slot_.adapters();
  }

  /// Switches the slot off and on. `DisableAdapters` does so for projections alone.
  void set_adapters_enabled(bool enabled) {
    slot_.set_enabled(enabled);
  }
  bool adapters_enabled() const {
    return slot_.enabled();
  }

 private:
  AdapterSlot<A> slot_;
};

} // namespace rora
