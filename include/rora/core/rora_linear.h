#pragma once

#include <rora/core/low_rank_adapter.h>
#include <rora/core/rora_linear_options.h>
#include <rora/core/projection.h>

#include <torch/nn/modules/linear.h>

#include <memory>

namespace rora {

/// A frozen linear layer with a trained low-rank change (RoRA, arXiv 2501.04315; LoRA and DoRA by its options):
///
///   y = W·x + (α/√r)·B·A·x + bias,  x `[..., in]`, W `[out, in]`, A `[r, in]`, B `[out, r]`
///
/// B begins at zero, so that the layer begins as its frozen base. `parameters()` holds W too, which does not require
/// gradients; `adapter_parameters()` holds what is trained. Rank 0 is the frozen layer. What `clone`, `to`, `torch::save` and
/// `merge` do, `Projection` says.
class RoRALinearImpl : public ProjectionImpl {
 public:
  static constexpr const char* kAdapterName = "default";

  /// A fresh layer, W and bias initialised as `torch::nn::Linear`'s. Throws for options out of range.
  explicit RoRALinearImpl(const RoRALinearOptions& options)
      : ProjectionImpl(checked(options).in_features(), options.out_features(), options.bias()), options(options) {
    ProjectionImpl::reset_parameters();
    attach_low_rank();
  }
  RoRALinearImpl(int64_t in_features, int64_t out_features)
      : RoRALinearImpl(RoRALinearOptions(in_features, out_features)) {}

  /// Adapts `linear`: its weight and bias themselves become this layer's, and are frozen there too.
  RoRALinearImpl(const torch::nn::Linear& linear, const LowRankOptions& low_rank)
      : ProjectionImpl(linear->weight, linear->bias),
        options(RoRALinearOptions(linear->options.in_features(), linear->options.out_features())
                    .bias(linear->bias.defined())
                    .low_rank(low_rank)) {
    attach_low_rank();
  }

  /// W and bias anew, then the adapter.
  void reset_parameters() override {
    ProjectionImpl::reset_parameters();
    if (const auto adapter = low_rank()) {
      adapter->reset_parameters(*this);
    }
  }

  std::shared_ptr<torch::nn::Module> clone(const std::optional<at::Device>& device = std::nullopt) const override {
    auto copy = std::make_shared<RoRALinearImpl>(*this);
    static_cast<ProjectionImpl&>(*copy) = *std::static_pointer_cast<ProjectionImpl>(ProjectionImpl::clone(device));
    return copy;
  }

  /// The low-rank adapter, null for rank 0.
  std::shared_ptr<LowRankAdapter> low_rank() const {
    return std::dynamic_pointer_cast<LowRankAdapter>(adapter(kAdapterName));
  }

  /// A, B and the magnitude: what an optimiser is given.
  std::vector<at::Tensor> adapter_parameters() const {
    const auto found = low_rank();
    return found ? found->parameters() : std::vector<at::Tensor>();
  }

  void pretty_print(std::ostream& stream) const override {
    stream << "rora::RoRALinear(in_features=" << in_features() << ", out_features=" << out_features()
           << ", bias=" << std::boolalpha << bias.defined() << ", rank=" << options.low_rank().rank()
           << ", alpha=" << options.low_rank().alpha() << ")";
  }

  RoRALinearOptions options;

 private:
  static const RoRALinearOptions& checked(const RoRALinearOptions& options) {
    options.validate();
    return options;
  }

  void attach_low_rank() {
    options.low_rank().validate();
    if (options.low_rank().rank() > 0) {
      attach(kAdapterName, std::make_shared<LowRankAdapter>(*this, options.low_rank()));
    }
  }
};
TORCH_MODULE(RoRALinear);

} // namespace rora
