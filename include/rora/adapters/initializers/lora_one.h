#pragma once

#include <rora/core/initializer.h>

#include <memory>

namespace rora {

/// LoRA-One (arXiv 2502.01235): from the first r singular values S and vectors U, V of the gradient G = ∂L/∂W
/// `[out, in]`,
///
///   A = (S/(σ₁·γ))^½·Vᵀ,  B = −U·(S/(σ₁·γ))^½,
///
/// so that s·B·A = −s/(γ·σ₁)·Gᵣ is the best step of rank r down the gradient, of a size that does not depend on the
/// gradient's. W stays as it is; the paper's scale is α/√r. Throws `c10::ValueError` for a γ that is not above 0, for a
/// rank over the weight's sizes and for a gradient that is 0.
std::shared_ptr<const Initializer> lora_one(double gamma = 128.0);

} // namespace rora
