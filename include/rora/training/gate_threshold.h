#pragma once

#include <rora/adapters/sora.h>
#include <rora/training/hooks.h>

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <map>
#include <string>
#include <vector>

namespace rora {

/// What SoRA (Ding et al., arXiv 2311.11696) does at a step so that gates become 0, with λ₁ = `gate_loss_weight` and
/// λ₂ = `threshold`:
///
///   loss += λ₁·mean|g| over all gates of all modules
///   after the update: g ← sign(g)·max(|g| − λ₂, 0)
///
/// The threshold is that of the authors' code, without the learning rate of the paper's; but that code makes 0 all of
/// |g| < 2λ₂. A gate that is 0 may come back by its gradient or the optimiser's momentum. The authors train gates by an
/// Adam of their own with the same learning rate, without decay, as a run without `weight_decay` does.
///
/// As it adds to the loss, a step that runs as a CUDA graph throws.
class GateThreshold : public TrainingHook {
 public:
  /// Throws `c10::ValueError` for options out of range.
  explicit GateThreshold(const SoraOptions& options);

  std::string name() const override;

  /// Throws `c10::ValueError` where the model has no trained adapter of SoRA.
  void begin(const StepContext& context) override;

  at::Tensor extra_loss(const StepContext& context) override;

  void after_step(const StepContext& context) override;

  std::map<std::string, double> fingerprint() const override;

 private:
  const SoraOptions options_;
  std::vector<size_t> gates_; ///< entries of the parameter table
};

} // namespace rora
