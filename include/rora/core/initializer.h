#pragma once

#include <rora/core/linkage.h>

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>

namespace rora {

class ProjectionImpl;

/// What is known of a weight before its adapter begins: each is there where the initializer asks for it.
struct WeightStatistics {
  at::Tensor gradient; ///< the mean of ∂L/∂W over some batches, `[out, in]` in fp32
  at::Tensor input_moment; ///< the mean of x·xᵀ over tokens, `[in, in]` in fp32
};

/// The tensors that an initializer fills.
struct InitialFactors {
  at::Tensor a; ///< `[rank, in]`
  at::Tensor b; ///< `[out, rank]`
  double scale = 1.0; ///< s of W + s·B·A
};

/// How a low-rank adapter begins.
class Initializer {
 public:
  virtual ~Initializer();

  /// The value of `init_lora_weights` that a folder's config holds: "true", "gaussian" ….
  virtual std::string name() const = 0;

  /// What `initialize` reads of `WeightStatistics`.
  virtual bool needs_gradient() const;
  virtual bool needs_input_moment() const;

  /// Whether W − s·B·A, with the factors as they begin, takes W's place, so that the adapted layer begins as the frozen
  /// one.
  virtual bool rewrites_base() const;

  /// Fills A and B for `projection`. W is `projection.original_weight()`: its `weight` may be another adapter's.
  virtual void initialize(
      const ProjectionImpl& projection, const WeightStatistics& statistics, InitialFactors factors) const = 0;
};

/// A uniform in ±1/√in, as `torch::nn::Linear`'s weight, and B zero: what PEFT's `init_lora_weights=True` means.
std::shared_ptr<const Initializer> kaiming_uniform();

/// A normal with deviation 1/rank, and B zero: PEFT's "gaussian".
std::shared_ptr<const Initializer> gaussian();

} // namespace rora

#if !defined(RORA_LINKED)
#include <rora/core/initializer_inl.h>
#endif
