#pragma once

#include <rora/core/initializer.h>

#include <torch/arg.h>

#include <memory>

namespace rora {

/// How LoRA-GA's factors follow from the singular vectors.
enum class LoRAGAForm {
  kPaper, ///< both times c, without the singular values
  kPeft, ///< PEFT's: A as it is, and B times the singular values and c
};

struct LoRAGAOptions {
  /// γ of c = out^¼/√γ: the larger it is, the smaller the factors are.
  TORCH_ARG(double, gamma) = 16.0;
  TORCH_ARG(LoRAGAForm, form) = LoRAGAForm::kPaper;

 public:
  /// Throws `c10::ValueError` naming the option that is out of range.
  void validate() const;
};

/// LoRA-GA (arXiv 2407.05000): from the singular vectors U, V of the gradient G = ∂L/∂W `[out, in]`,
///
///   A = c·V[:, 0:r]ᵀ,  B = c·U[:, r:2r],  c = out^¼/√γ,  and W − s·B·A in W's place,
///
/// so that the model begins as it was and the first step of gradient descent moves W by −η·s²·c²·G₂ᵣ, the gradient's
/// best approximation of rank 2r. The paper's scale is α/√r. Throws `c10::ValueError` where 2r is over the weight's
/// sizes.
std::shared_ptr<const Initializer> lora_ga(const LoRAGAOptions& options = {});

} // namespace rora
