#pragma once

#include <rora/core/adapter.h>
#include <rora/core/adapter_slot.h>
#include <rora/core/linear_weight.h>
#include <rora/core/linkage.h>
#include <rora/core/low_rank_term.h>

#include <ATen/core/Tensor.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace rora {

/// A linear map y = W·x + bias with a frozen weight and a slot for adapters (`AdapterSlot`).
///
/// Without an active adapter the projection is its frozen layer and costs what that costs. `weight` `[out, in]` and
/// `bias` `[out]` carry Hugging Face's keys; they do not require gradients until asked to (pre-training). `weight` is
/// undefined where W is not dense: the buffers of its storage (`LinearWeight`) then stand below the key `weight`.
///
/// As a module:
/// - `clone()` copies weight, storage and adapters with their state, merged or not; a weight that is stored dense and
///   in another layout beside it is copied without that layout.
/// - `to(dtype)` brings a dense weight and the bias to that dtype and leaves adapters in fp32 (fp64 for fp64).
/// - `torch::save` writes W as it was loaded and the adapters' tensors. It throws while an adapter is merged, as
///   `torch::load` does, for which the module must have the same adapters attached; where it throws, also for tensors
///   of other sizes, the module is as it was.
/// - `merge()` writes the active adapter into `weight`, and `unmerge()` puts the base back, bit for bit.
/// - A `weight` of the same sizes that is assigned anew is the base from then on. `parameters()` has it in the old
///   one's place once the module has been used, by `forward` or `base()`.
class ProjectionImpl : public torch::nn::Cloneable<ProjectionImpl> {
 public:
  /// A weight of the given sizes, uninitialised: to be loaded or `torch::nn::init`-ed.
  ProjectionImpl(int64_t in_features, int64_t out_features, bool bias = false);

  /// Takes over `weight` `[out, in]` and `bias` `[out]` (or undefined) themselves, without a copy, and freezes them.
  explicit ProjectionImpl(const at::Tensor& weight, const at::Tensor& bias = {});

  /// For `clone`: new tensors and new adapters of the same kinds, to be filled.
  void reset() override;
  std::shared_ptr<torch::nn::Module> clone(const std::optional<at::Device>& device = std::nullopt) const override;

  /// W and bias uniform in ±1/√in, as `torch::nn::Linear`'s. Throws for a weight that is not dense, and while an
  /// adapter is merged.
  virtual void reset_parameters();

  int64_t in_features() const;
  int64_t out_features() const;

  /// x `[..., in]` → `[..., out]`. Throws c10::TypeError for an x that is not of floating point, and ValueError for one
  /// of another size.
  at::Tensor forward(const at::Tensor& x);

  /// The projection without its adapter, for `low_rank_linear`.
  ops::LowRankTerm frozen_term() const;

  /// y = W·x + bias, whatever adapter is active.
  at::Tensor forward_frozen(const at::Tensor& x) const;

  /// W behind its storage, as it is read now.
  const ops::LinearWeight& base() const;

  /// W as it was loaded, whatever adapter has taken its place: behind its storage, and as a dense tensor `[out, in]`,
  /// dequantised where it is quantised.
  std::shared_ptr<const ops::LinearWeight> original_base() const;
  at::Tensor original_weight() const;

  /// Stores W another way from now on (reordered, quantised); the storage before is given up. The sizes stay. Throws
  /// while an adapter is merged or has rewritten the weight.
  void set_base(std::shared_ptr<ops::LinearWeight> base);

  /// How often W was stored another way: what follows from W's values alone is made anew when this changes.
  uint64_t base_version() const;

  /// Puts `adapter` into the slot under `name` and makes it the active one, in training mode or not as the projection
  /// is. Throws for a name in use, for one that is no module's or the weight's, and for factors of other sizes than
  /// W's.
  void attach(const std::string& name, std::shared_ptr<Adapter> adapter);

  /// Takes the adapter of that name out of the slot; none is active afterwards if it was. Throws for an unknown name.
  std::shared_ptr<Adapter> detach(const std::string& name);

  /// Makes the adapter of that name the active one; the empty name makes none active. Throws for an unknown name.
  void activate(const std::string& name);

  /// The name of the active adapter, or the empty one.
  const std::string& active_name() const;

  /// The adapter that `forward` applies: null without an active one, under `DisableAdapters`, or once it is merged.
  Adapter* active_adapter() const;

  /// The adapter of that name, or null.
  std::shared_ptr<Adapter> adapter(const std::string& name) const;
  const std::map<std::string, std::shared_ptr<Adapter>>& adapters() const;

  /// Switches the slot off and on; prefer `DisableAdapters`.
  void set_adapters_enabled(bool enabled);
  bool adapters_enabled() const;

  /// Writes the active adapter into `weight`, from fp32 and rounded once. The base, however it is stored, is kept for
  /// `unmerge`, which is exact. Nothing happens without an active adapter; throws for one that no weight can express.
  void merge();

  /// Puts the base weight back, bit for bit. Nothing happens where nothing is merged.
  void unmerge();
  bool merged() const;

  using torch::nn::Cloneable<ProjectionImpl>::to;
  void to(at::Device device, at::ScalarType dtype, bool non_blocking = false) override;
  void to(at::ScalarType dtype, bool non_blocking = false) override;
  void to(at::Device device, bool non_blocking = false) override;

  void save(torch::serialize::OutputArchive& archive) const override;
  void load(torch::serialize::InputArchive& archive) override;

  void pretty_print(std::ostream& stream) const override;

  at::Tensor weight; ///< W `[out, in]`; undefined where it is not dense
  at::Tensor bias; ///< `[out]`, undefined where the projection has none

 private:
  /// The base while another weight stands in its place: a merged one, or that of an adapter that rewrites it.
  struct Original {
    at::Tensor weight; ///< undefined where W was not dense
    std::shared_ptr<ops::LinearWeight> base;
  };

  void check_input(const at::Tensor& x) const;
  void check_not_merged(const char* before) const;
  void set_active(const std::string& name);
  const std::shared_ptr<ops::LinearWeight>& current_base() const;
  void adopt_assigned_weight();
  void take_base(std::shared_ptr<ops::LinearWeight> base);
  void put(const at::Tensor& dense);
  void put_back();
  void use_rewritten_weight();
  void convert_original(const at::TensorOptions& options);

  std::shared_ptr<ops::LinearWeight> base_;
  uint64_t base_version_ = 0;
  AdapterSlot<Adapter> slot_;
  std::string merged_name_;
  std::optional<Original> original_;
};
TORCH_MODULE(Projection);

/// Runs every projection below `module` as its frozen layer while the guard lives. Throws where one is merged, and then
/// leaves all as they were.
class DisableAdapters {
 public:
  explicit DisableAdapters(torch::nn::Module& module);
  ~DisableAdapters();
  DisableAdapters(const DisableAdapters&) = delete;
  DisableAdapters& operator=(const DisableAdapters&) = delete;

 private:
  std::vector<ProjectionImpl*> projections_;
};

} // namespace rora

#if !defined(RORA_LINKED)
#include <rora/core/projection_inl.h>
#endif
