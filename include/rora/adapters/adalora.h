#pragma once

#include <rora/adapters/gated_adapter.h>

#include <torch/arg.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace rora {

class AdapterKind;

/// The options of AdaLoRA, by the names and with the defaults of PEFT's `AdaLoraConfig`:
/// \code
/// const auto options = rora::AdaLoraOptions().init_r(12).target_r(8).tinit(50).tfinal(150);
/// rora::attach_adapters(*model, rora::AdapterOptions().kind(rora::adalora(options)));
/// rora::Trainer trainer(model, examples, rora::TrainerOptions().max_steps(500));
/// trainer.add_hook(std::make_shared<rora::RankAllocator>(options)); // rora/training/rank_allocator.h
/// \endcode
struct AdaLoraOptions {
  /// Rows of A, columns of B and numbers of E at the beginning.
  TORCH_ARG(int64_t, init_r) = 12;
  /// What is left of them at the end, in the mean over the modules.
  TORCH_ARG(int64_t, target_r) = 8;
  /// Numerator of the scale.
  TORCH_ARG(double, alpha) = 8.0;
  /// The probability of dropping an element of A's input while training.
  TORCH_ARG(double, dropout) = 0.0;
  /// Steps before the budget falls; none: a sixth of the run, as in the authors' example.
  TORCH_ARG(std::optional<int64_t>, tinit) = std::nullopt;
  /// Steps at the end in which ranks stay as they are; none: half of the run.
  TORCH_ARG(std::optional<int64_t>, tfinal) = std::nullopt;
  /// Ranks are given out at every so many steps, PEFT's `deltaT`.
  TORCH_ARG(int64_t, delta_t) = 1;
  /// How much of the smoothed importance stays at a step.
  TORCH_ARG(double, beta1) = 0.85;
  /// The same of its uncertainty.
  TORCH_ARG(double, beta2) = 0.85;
  /// The weight of the loss that keeps A's rows and B's columns orthonormal.
  TORCH_ARG(double, orth_reg_weight) = 0.5;
  /// The run's steps; 0: as many as it has.
  TORCH_ARG(int64_t, total_step) = 0;

 public:
  /// Throws `c10::ValueError` naming the option that is out of range.
  void validate() const;

  /// These options with the numbers of steps that a run of so many has. Throws `c10::ValueError` for a target_r over
  /// init_r, and where tinit and tfinal leave no step in which the budget falls.
  AdaLoraOptions for_run(int64_t steps) const;

  /// How many ranks `modules` modules have together after step `step`, counted from 1, of the options of a run. With
  /// b₀ = init_r·modules and b₁ = target_r·modules (arXiv 2303.10512, section 3.3):
  ///
  ///   b₀ up to tinit;  ⌊b₁ + (b₀ − b₁)·(1 − (step − tinit)/(total_step − tfinal − tinit))³⌋;  b₁ in the last tfinal
  int64_t budget(int64_t step, int64_t modules) const;
};

/// AdaLoRA: y = W·x + s·B·diag(E)·A·x + bias (Zhang et al., arXiv 2303.10512, section 3.1), with
/// s = α/(init_r + 1e-5) whatever ranks are left, as PEFT has it, and E `[rank, 1]` for the gate.
///
/// A and B begin from N(0, 0.02²) and E at 0. A rank whose number in E is 0 is as good as none, and folders leave it
/// out.
class AdaLoraAdapter : public GatedAdapter {
 public:
  /// An adapter of `projection`, on its device, of the ranks that `kept` says; empty: all `init_r`. Throws for options
  /// out of range.
  AdaLoraAdapter(const ProjectionImpl& projection, const AdaLoraOptions& options, std::vector<bool> kept = {});

  double scale() const override;

  double dropout() const override;

  /// Which of the first `init_r` ranks a folder is given: those of a number in E that is not 0, and while it is trained
  /// those that `mask` keeps. Without a mask all that there are where every number is 0: nothing was taken yet.
  std::vector<bool> kept() const;

  /// A, E and B of the ranks that `kept()` says.
  std::vector<std::pair<std::string, at::Tensor>> saved_tensors() const override;

  std::shared_ptr<Adapter> empty_copy() const override;

  void pretty_print(std::ostream& stream) const override;

  /// What it was made with. `RankAllocator` puts in the numbers of steps of its run.
  AdaLoraOptions options;
  /// Which ranks `RankAllocator` keeps, 1, and which not, 0: `[init_r]`. Undefined without one.
  at::Tensor mask;

 private:
  /// Tensors without values.
  AdaLoraAdapter(
      const AdaLoraOptions& options, std::vector<bool> rows, int64_t in, int64_t out, const at::TensorOptions& like);

  /// Which of the first `init_r` ranks its rows are.
  const std::vector<bool> rows_;
};

/// The kind of these adapters, for `AdapterOptions::kind`: PEFT's ADALORA. Throws `c10::ValueError` for options out of
/// range.
std::shared_ptr<const AdapterKind> adalora(const AdaLoraOptions& options = {});

} // namespace rora
