#pragma once

#include <rora/training/optimizer.h>

#include <ATen/core/Tensor.h>
#include <torch/arg.h>

namespace rora {

struct AdamWOptions {
  TORCH_ARG(double, beta1) = 0.9;
  TORCH_ARG(double, beta2) = 0.999;
  TORCH_ARG(double, eps) = 1e-8;
  TORCH_ARG(double, weight_decay) = 0.0; // adapters are not decayed by default, as in PEFT

 public:
  /// Throws `c10::ValueError` naming the option that is out of range.
  void validate() const;
};

/// AdamW (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2) with `torch.optim.AdamW`'s semantics, over flat
/// buffers, a fused call for each group of parameters:
///
///   θ ← θ − η·λ·θ;  m ← β₁m + (1−β₁)g;  v ← β₂v + (1−β₂)g²;  θ ← θ − η·m̂/(√v̂ + ε)
///
/// with η the learning rate times the group's factor and λ the group's decay or that of the options.
class AdamW : public Optimizer {
 public:
  explicit AdamW(ParameterTable& parameters, const AdamWOptions& options = {});

  std::string name() const override {
    return "AdamW";
  }
  std::vector<std::pair<std::string, at::Tensor>> state() const override;
  std::map<std::string, double> fingerprint() const override;

  /// m and v, of the buffer's size: the whole state besides `steps`.
  at::Tensor exp_avg;
  at::Tensor exp_avg_sq;

 protected:
  void update(double learning_rate, const at::Tensor& left_out) override;

  /// The same from `gradients` that a method has made of the table's, laid out as they are.
  void update_from(const at::Tensor& gradients, double learning_rate, const at::Tensor& left_out);

 private:
  AdamWOptions options_;
};

} // namespace rora
