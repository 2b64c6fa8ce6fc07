#pragma once

#include <rora/training/adamw.h>

#include <ATen/core/Tensor.h>
#include <torch/arg.h>

#include <memory>
#include <vector>

namespace rora {
namespace detail {
class UnpairedAdamW;
}

struct LoraProOptions {
  TORCH_ARG(AdamWOptions, adamw); // moments, ε and decay
  TORCH_ARG(double, damping) = 1e-8; // δ, on the diagonals of BᵀB and AAᵀ
  /// Moments of the whole weight's gradient, two numbers for each of its elements, in place of the factors'.
  TORCH_ARG(bool, full) = false;

 public:
  /// Throws `c10::ValueError` naming the option that is out of range.
  void validate() const;
};

/// Gradients of a pair's factors, A's `[r, in]` and B's `[out, r]`.
struct FactorGradients {
  at::Tensor a;
  at::Tensor b;
};

/// The g′ of A and B by whose step the weight moves most like its own gradient G `[out, in]`: s·B·gA′ + s·gB′·A is
/// G − (I − P_B)·G·(I − P_A), the closest to G of all such sums, P_A and P_B being the projections on A's rows and B's
/// columns. Known of G are g: gA = s·BᵀG and gB = s·GAᵀ alone (Wang et al., arXiv 2407.18242, theorems 2.1 and 2.3):
///
///   gA′ = s⁻²·(BᵀB)⁻¹gA + X·A,  gB′ = s⁻²·(I − P_B)·gB·(AAᵀ)⁻¹ − B·X
///   BᵀB·X + X·AAᵀ = −s⁻²·(BᵀB)⁻¹·gA·Aᵀ
///
/// X, which the sum does not depend on, brings g′ closest to g. BᵀB and AAᵀ are taken with `damping` on their
/// diagonals and inverted where they are above rounding, in the factors' dtype: at B = 0 gA′ is 0.
FactorGradients lora_pro_gradients(
    const at::Tensor& a, const at::Tensor& b, const FactorGradients& g, double scale, double damping);

/// LoRA-Pro with the factors' moments: AdamW on g′ of `lora_pro_gradients`, as third parties' implementations have it.
/// It takes AdamW's memory; what AdamW makes of g′ no longer moves the weight exactly along the projection. What is in
/// no pair takes AdamW's steps alone. With DoRA the gradients are those of the direction's factors at a fixed magnitude
/// and norm, n⊙G in G's place: the form holds as it stands.
///
/// It is meant for raw gradients: the trainer's own clipping comes first where it is not switched off. An update waits
/// for a GPU.
class LoraPro : public AdamW {
 public:
  /// Throws `c10::ValueError` where no pair is trained, for options out of range, and for a table that is neither in
  /// fp32 nor in fp64.
  explicit LoraPro(ParameterTable& parameters, const LoraProOptions& options = {});

  std::string name() const override {
    return "LoRA-Pro";
  }
  std::map<std::string, double> fingerprint() const override;

 protected:
  void update(double learning_rate, const at::Tensor& left_out) override;

 private:
  double damping_;
};

/// LoRA-Pro with the whole weight's moments, as its authors have it: Adam's direction of the projected gradient
///
///   g̃ = s·B·gA′ + s·gB′·A;  m ← β₁m + (1−β₁)g̃;  v ← β₂v + (1−β₂)g̃²;  ĝ = m̂/(√v̂ + ε)
///
/// takes G's place, gA = s·Bᵀĝ and gB = s·ĝAᵀ, and the factors take plain steps by the g′ of these, with decoupled
/// decay. m and v are `[out, in]` a pair, as much as AdamW keeps of the whole weight. Unlike in the authors' code s
/// is the pair's own, and the bias is corrected by the count of this update. Where B begins at 0, A moves far in the
/// second update unless the learning rate is about 1e-4 or less. What is in no pair takes AdamW's steps.
class LoraProFull : public Optimizer {
 public:
  /// Throws as `LoraPro` does.
  explicit LoraProFull(ParameterTable& parameters, const LoraProOptions& options = {});
  ~LoraProFull() override;

  std::string name() const override {
    return "LoRA-Pro, full";
  }
  std::vector<std::pair<std::string, at::Tensor>> state() const override;
  std::map<std::string, double> fingerprint() const override;

 protected:
  void update(double learning_rate, const at::Tensor& left_out) override;

 private:
  void update_pair(const ParameterPair& pair, const at::Tensor& m, const at::Tensor& v, double learning_rate);

  LoraProOptions options_;
  std::unique_ptr<detail::UnpairedAdamW> unpaired_;
  at::Tensor m_; // of all pairs, one behind the other
  at::Tensor v_;
};

/// For `TrainerOptions::optimizer`: `LoraPro`, or `LoraProFull` where the options ask for it.
OptimizerFactory lora_pro(const LoraProOptions& options = {});

} // namespace rora
