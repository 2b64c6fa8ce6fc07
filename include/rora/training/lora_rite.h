#pragma once

#include <rora/training/optimizer.h>

#include <ATen/core/Tensor.h>
#include <torch/arg.h>

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

namespace rora {
namespace detail {
class UnpairedAdamW;
}

struct LoraRiteOptions {
  TORCH_ARG(double, beta1) = 0.9;
  TORCH_ARG(double, beta2) = 0.999;
  TORCH_ARG(double, eps) = 1e-6; // beside the root of the second moment
  TORCH_ARG(double, weight_decay) = 0.0;
  /// Where the norm of all unmagnified gradients together is clipped; 0 is off.
  TORCH_ARG(double, clip) = 1.0;
  /// An unmagnified gradient of a higher root mean square counts as 0; 0 is off.
  TORCH_ARG(double, skip) = 1.0;
  /// Updates in which A stands still while its moments gather. Where B begins at 0 its first update after that moves A
  /// far, whatever the learning rate: by some 60% of its norm at 1. Not in the authors' code.
  TORCH_ARG(int64_t, hold_a) = 0;
  TORCH_ARG(double, adamw_eps) = 1e-8; // of what is in no pair

 public:
  /// Throws `c10::ValueError` naming the option that is out of range.
  void validate() const;
};

/// LoRA-RITE (Yen et al., arXiv 2410.20625, algorithm 1, as its authors' code has it, without the escaped mass and
/// capping, which are off there): an adaptive update of pairs of factors that moves B·A alike however that is divided
/// between them, (A, B), (cA, B/c) and, at ranks up to the projection's sizes, (TA, BT⁻¹). Of the tall X = Aᵀ `[in, r]`
/// beside Y = B `[out, r]`, and likewise of B beside Aᵀ, with thin factorisations X = Q_X·R_X and Y = Q_Y·R_Y:
///
///   u ← g·R_Y⁺, 0 where its root mean square is over `skip`, all u together clipped to the norm `clip`
///   P = Q_Yᵀ·Q_Y,before (0 at first);  β̂ = β(1 − β^(t−1))/(1 − βᵗ)
///   V ← β̂₂·P·V·Pᵀ + (1 − β̂₂)·uᵀu/rows(X);  M ← β̂₁·M·Pᵀ + (1 − β̂₁)·u·V^(−½)
///   X ← (1 − ηλ)·X − η·M·(R_Y⁺)ᵀ
///
/// with η the learning rate times the group's factor and λ the group's decay or that of the options. V^(−½) is by
/// eigenvalues w ≥ 0 as 1/(√w + ε). What is in no pair, DoRA's magnitudes and rows among them, takes AdamW's steps at
/// the same rates. With DoRA the gradients are those of the direction's factors at a fixed magnitude and norm, n⊙G in
/// G's place: the form holds as it stands.
///
/// It is meant for raw gradients: the trainer's own clipping is by a norm that is not invariant, and comes first
/// where it is not switched off. State: two numbers for each of A and B, as with AdamW, and 2r² a pair. An update
/// takes two QR, two SVD and two eigendecompositions of r×r a pair, in the parameters' dtype, and waits for a GPU.
class LoraRite : public Optimizer {
 public:
  /// Throws `c10::ValueError` where no pair is trained, for options out of range, and for a table that is neither in
  /// fp32 nor in fp64.
  explicit LoraRite(ParameterTable& parameters, const LoraRiteOptions& options = {});
  ~LoraRite() override;

  std::string name() const override {
    return "LoRA-RITE";
  }
  std::vector<std::pair<std::string, at::Tensor>> state() const override;
  std::map<std::string, double> fingerprint() const override;

 protected:
  void update(double learning_rate, const at::Tensor& left_out) override;

 private:
  /// One factor of a pair, tall, in columns of a basis of its own or of the other factor's.
  struct Factor {
    size_t entry = 0;
    bool is_a = false;
    at::Tensor momentum; ///< M `[rows, rank of the other's R]`
    at::Tensor second_moment; ///< V, square
    at::Tensor basis; ///< its own Q of the update before `[rows, rank of its R]`
  };
  using FactorPair = std::array<Factor, 2>;

  /// What an update forms of a factor before all pairs are clipped together.
  struct Part {
    at::Tensor q;
    at::Tensor inverse; ///< R⁺
    at::Tensor unmagnified; ///< u
  };
  using PartPair = std::array<Part, 2>;

  void make_state();
  at::Tensor tall(const Factor& factor, const at::Tensor& flat) const;
  PartPair split(const FactorPair& pair, const at::Tensor& gradients) const;
  at::Tensor clip_factor(const std::vector<PartPair>& parts) const;
  void advance(const Factor& factor, const Part& own, const Part& other, const Factor& other_factor, double rate) const;

  LoraRiteOptions options_;
  std::vector<FactorPair> pairs_;
  std::unique_ptr<detail::UnpairedAdamW> unpaired_;
  at::Tensor momentum_; // the factors' tensors are views of these
  at::Tensor second_moment_;
  at::Tensor basis_;
};

/// For `TrainerOptions::optimizer`.
OptimizerFactory lora_rite(const LoraRiteOptions& options = {});

} // namespace rora
