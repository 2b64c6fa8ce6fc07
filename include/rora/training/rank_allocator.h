#pragma once

#include <rora/adapters/adalora.h>
#include <rora/training/hooks.h>

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace rora {

/// What AdaLoRA (Zhang et al., arXiv 2303.10512, as PEFT has it) does at a step. Its loss keeps the rows of A and the
/// columns of B apart; the mean goes over all A and B of all modules, by Frobenius norms, which the paper's section 3.1
/// squares:
///
///   loss += orth_reg_weight·mean(‖AAᵀ − I‖, ‖BᵀB − I‖)
///
/// After the update, up to step total_step − tfinal − 1, it measures how much each number w of A, E and B matters, by
/// the gradient that the update was made from, and each rank k (section 3.2):
///
///   i = |w·∂L/∂w|;  Ī ← β₁Ī + (1 − β₁)i;  Ū ← β₂Ū + (1 − β₂)|i − Ī|
///   importance of k = ĪŪ of E_k + mean of ĪŪ over row k of A + mean of ĪŪ over column k of B
///
/// At every step from tinit + 1 to total_step − tfinal that `delta_t` divides, and at the last of these, the
/// `AdaLoraOptions::budget` most important ranks of all modules are kept, and E_k of the others becomes 0. Of equal
/// ones the first is kept. A rank that was taken trains on and may come back until then; after that the last choice
/// holds at every step. Steps count from 1: PEFT's `update_and_allocate(step + 1)`.
///
/// It keeps two numbers for each that is trained, and a mask `[modules, init_r]`. As it adds to the loss, a step that
/// runs as a CUDA graph throws.
class RankAllocator : public TrainingHook {
 public:
  /// `options` are those that the adapters were attached with. Throws `c10::ValueError` for options out of range.
  explicit RankAllocator(const AdaLoraOptions& options);

  std::string name() const override;

  /// Puts the run's numbers of steps and the mask into the adapters, for their folder. Throws `c10::ValueError` where
  /// the model has no trained adapter of AdaLoRA, or one that has lost ranks already or has other options, for a
  /// total_step beyond the run, and as `AdaLoraOptions::for_run` does.
  void begin(const StepContext& context) override;

  at::Tensor extra_loss(const StepContext& context) override;

  void after_step(const StepContext& context) override;

  /// Where the last ranks are given out.
  int64_t first_best_step() const override;

  int64_t state_bytes(const ParameterTable& parameters) const override;

  std::vector<std::pair<std::string, at::Tensor>> state() const override;

  std::map<std::string, double> fingerprint() const override;

  /// Which ranks are kept, 1, and which are not, 0: `[modules, init_r]` in the order of the model.
  const at::Tensor& mask() const {
    return mask_;
  }

 private:
  /// A module's tensors by their places in the parameter table.
  struct Triplets {
    size_t a = 0;
    size_t e = 0;
    size_t b = 0;
  };

  void measure(ParameterTable& table);
  at::Tensor importance(const ParameterTable& table) const;
  void choose(const ParameterTable& table, int64_t budget);
  void apply(const ParameterTable& table) const;

  const AdaLoraOptions asked_;
  AdaLoraOptions run_;
  std::vector<Triplets> modules_;
  at::Tensor importance_; ///< Ī, laid out as the table's values
  at::Tensor uncertainty_; ///< Ū, the same
  at::Tensor mask_;
};

} // namespace rora
