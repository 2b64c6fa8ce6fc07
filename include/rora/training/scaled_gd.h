#pragma once

#include <rora/training/adamw.h>

#include <ATen/core/Tensor.h>
#include <torch/arg.h>

namespace rora {

struct ScaledGDOptions {
  TORCH_ARG(AdamWOptions, adamw); // of the update that follows
  TORCH_ARG(double, damping) = 1e-2; // λ, as in PEFT

 public:
  /// Throws `c10::ValueError` naming the option that is out of range.
  void validate() const;
};

/// ScaledGD (Zhang and Pilanci, arXiv 2402.02347, equation 4): the gradients of each pair of factors are
/// preconditioned by the other one,
///
///   gA ← (BᵀB + λI)⁺·gA,  gB ← gB·(AAᵀ + λI)⁺
///
/// and AdamW follows, as in PEFT's `create_riemannian_optimizer`. What is in no pair takes AdamW's steps alone. With
/// DoRA the gradients are those of the direction's factors at a fixed magnitude and norm: the form holds as it stands.
/// Gradients in the table stay as they are. An update waits for a GPU.
class ScaledGD : public AdamW {
 public:
  /// Throws `c10::ValueError` where no pair is trained, for options out of range, and for a table that is neither in
  /// fp32 nor in fp64.
  explicit ScaledGD(ParameterTable& parameters, const ScaledGDOptions& options = {});

  std::string name() const override {
    return "ScaledGD";
  }
  std::map<std::string, double> fingerprint() const override;

 protected:
  void update(double learning_rate, const at::Tensor& left_out) override;

 private:
  double damping_;
};

/// For `TrainerOptions::optimizer`.
OptimizerFactory scaled_gd(const ScaledGDOptions& options = {});

} // namespace rora
