#pragma once

#include <rora/core/initializer.h>

#include <torch/arg.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace torch::nn {
class Module;
}

namespace rora {

struct GoRAOptions {
  /// The bounds of a module's rank; 0 is half of the rank that is asked for, and four times it: 4 and 32 of the paper's
  /// rank 8. No rank is over a weight's sizes.
  TORCH_ARG(int64_t, min_rank) = 0;
  TORCH_ARG(int64_t, max_rank) = 0;
  /// ‖s·B·A‖ at the start, as a share of ‖G‖.
  TORCH_ARG(double, gamma) = 5e-2;

 public:
  /// Throws `c10::ValueError` naming the option that is out of range.
  void validate() const;
};

/// GoRA (arXiv 2502.12171): each weight's rank by how much the loss cares for it, and B from the gradient
/// G = ∂L/∂W `[out, in]`, the mean over some batches:
///
///   importance  I = mean|W ⊙ G|
///   budget      b = Σ √(in + out)·r over all modules, with r the rank that was asked for
///   rank        rᵢ = clip(round(b·Iᵢ/ΣI / √(inᵢ + outᵢ)), min_rank, max_rank)
///   A           uniform in ±1/√in, and B = −ξ·G·Aᵀ·(A·Aᵀ)⁻¹ with s·ξ = γ·√(in/rᵢ)
///
/// so that s·B·A is the step −γ·√(in/rᵢ)·G seen through A, E‖s·B·A‖² = γ²·‖G‖² and W stays as it is. With s = α/√rᵢ, ξ
/// is the paper's γ·√in/α; under α/r it is what gives the same start. Ranks are rounded and clipped one by one, so what
/// is used of the budget is near it, not equal; far from it where the bounds cut many ranks.
///
/// Its ranks throw `c10::ValueError` where the bounds leave no room for the budget, or no weight has any importance.
std::shared_ptr<const Initializer> gora(const GoRAOptions& options = {});

/// What `choose_gora_gamma` found.
struct GoRAGamma {
  double gamma = 0.0;
  double loss = 0.0; ///< with it
  double loss_before = 0.0; ///< of the base
};

/// GoRA's adaptive γ, as its authors' code has it: of 0.8⁰, 0.8¹, …, 0.8⁵¹ the one at which `loss`, that of one batch,
/// is least; 0, and so LoRA with GoRA's ranks, where none has a loss below the base's. The low-rank adapters of that
/// name, which `gora` made with `made_with` and nothing has trained yet, are left as γ makes them; with DoRA their
/// magnitudes too. Throws `c10::ValueError` for a `made_with` that is not above 0 and a model without such adapters.
///
/// \code
/// rora::attach_adapters(*model, options, "default", statistics); // of gora(GoRAOptions().gamma(1.0))
/// rora::choose_gora_gamma(*model, 1.0, [&] { return mean_loss(model, batch); });
/// \endcode
GoRAGamma choose_gora_gamma(
    torch::nn::Module& model, double made_with, const std::function<double()>& loss,
    const std::string& name = "default");

} // namespace rora
