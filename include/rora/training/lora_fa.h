#pragma once

#include <rora/training/optimizer.h>

#include <ATen/core/Tensor.h>
#include <torch/arg.h>
#include <torch/nn/module.h>

#include <vector>

namespace rora {

struct LoraFaOptions {
  TORCH_ARG(double, beta1) = 0.9;
  TORCH_ARG(double, beta2) = 0.999;
  TORCH_ARG(double, eps) = 1e-6; // as in PEFT
  TORCH_ARG(double, weight_decay) = 0.0;
  TORCH_ARG(double, damping) = 1e-8; // δ, as in PEFT

 public:
  /// Throws `c10::ValueError` naming the option that is out of range.
  void validate() const;
};

/// Freezes the A of every pair whose B is trained, before a table is made for `LoraFa`: A keeps its bits, its gradient
/// is not formed, and a layer need not keep its input for one. `activate_adapters` makes all of an adapter trained
/// again. Throws `c10::ValueError` where there is none.
void freeze_a(const torch::nn::Module& model);

/// LoRA-FA (Zhang et al., arXiv 2308.03303) in PEFT's form (`LoraFAOptimizer`): A is frozen, and B's gradient becomes
/// the one whose change of the weight is closest to the weight's own gradient, followed by transformers' former AdamW,
///
///   gB ← s⁻²·gB·(AAᵀ + δI)⁺;  m ← β₁m + (1−β₁)gB;  v ← β₂v + (1−β₂)gB²
///   B ← B − η·√(1−β₂ᵗ)/(1−β₁ᵗ)·m/(√v + ε);  B ← (1 − ηλ)·B
///
/// with ε before the bias is corrected, s the pair's scale, η the learning rate times the group's factor and λ the
/// group's decay or that of the options. What is in no pair takes the same steps from its own gradient. (AAᵀ + δI)⁺ is
/// formed once. PEFT rounds the product of gB and (AAᵀ + δI)⁺ to bfloat16 where it can; here it is in the parameters'
/// dtype. The paper itself takes Adam's steps from gB. With DoRA gB is the direction's at a fixed magnitude and norm:
/// the form holds as it stands.
class LoraFa : public Optimizer {
 public:
  /// Reads each frozen A. Throws `c10::ValueError` where an A is trained (`freeze_a`) or no B is beside a frozen one,
  /// for options out of range, and for a table that is neither in fp32 nor in fp64.
  explicit LoraFa(ParameterTable& parameters, const LoraFaOptions& options = {});

  std::string name() const override {
    return "LoRA-FA";
  }
  std::vector<std::pair<std::string, at::Tensor>> state() const override;
  std::map<std::string, double> fingerprint() const override;

 protected:
  void update(double learning_rate, const at::Tensor& left_out) override;

 private:
  struct Projection {
    size_t b = 0; ///< an entry
    at::Tensor inverse; ///< s⁻²·(AAᵀ + δI)⁺
  };

  LoraFaOptions options_;
  std::vector<Projection> projections_;
  at::Tensor exp_avg_;
  at::Tensor exp_avg_sq_;
};

/// For `TrainerOptions::optimizer`; the model's A are frozen before its trainer is made (`freeze_a`).
OptimizerFactory lora_fa(const LoraFaOptions& options = {});

} // namespace rora
