#pragma once

#include <rora/core/linkage.h>
#include <rora/core/low_rank_adapter.h>
#include <rora/core/projection.h>
#include <rora/core/rora_linear_options.h>

#include <torch/nn/modules/linear.h>

#include <memory>
#include <optional>
#include <vector>

namespace rora {

/// A frozen linear layer with a trained low-rank change (RoRA, arXiv 2501.04315; LoRA and DoRA by its options):
///
///   y = W·x + (α/√r)·B·A·x + bias,  x `[..., in]`, W `[out, in]`, A `[r, in]`, B `[out, r]`
///
/// B begins at zero, so that the layer begins as its frozen base. `parameters()` holds W too, which does not require
/// gradients; `adapter_parameters()` holds what is trained. Rank 0 is the frozen layer. y has x's dtype, also under
/// autocast. What `clone`, `to`, `torch::save` and `merge` do, `Projection` says.
class RoRALinearImpl : public ProjectionImpl {
 public:
  static constexpr const char* kAdapterName = "default";

  /// A fresh layer, W and bias initialised as `torch::nn::Linear`'s. Throws for options out of range.
  explicit RoRALinearImpl(const RoRALinearOptions& options);
  RoRALinearImpl(int64_t in_features, int64_t out_features);

  /// Adapts `linear`: its weight and bias themselves become this layer's, and are frozen there too. `linear` also
  /// computes with what `merge`, or a start that rewrites the base, puts into the weight: make only one layer of it.
  RoRALinearImpl(const torch::nn::Linear& linear, const LowRankOptions& low_rank);

  /// W and bias anew, then the adapter.
  void reset_parameters() override;

  std::shared_ptr<torch::nn::Module> clone(const std::optional<at::Device>& device = std::nullopt) const override;

  /// The low-rank adapter, null for rank 0.
  std::shared_ptr<LowRankAdapter> low_rank() const;

  /// A, B and the magnitude: what an optimiser is given.
  std::vector<at::Tensor> adapter_parameters() const;

  void pretty_print(std::ostream& stream) const override;

  RoRALinearOptions options;

 private:
  void attach_low_rank();
};
TORCH_MODULE(RoRALinear);

} // namespace rora

#if !defined(RORA_LINKED)
#include <rora/core/rora_linear_inl.h>
#endif
