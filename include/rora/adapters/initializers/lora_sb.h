#pragma once

#include <rora/core/initializer.h>

#include <memory>

namespace rora {

/// LoRA-SB (arXiv 2411.19557), for `LowRankOptions::core`: from the first r singular values S and vectors U, V of the
/// first step that AdamW would take, D = −step·sign(G) with the gradient G = ∂L/∂W `[out, in]`,
///
///   A = Vᵀ,  B = U,  R = diag(S)/s,
///
/// so that s·B·R·A is the nearest change of rank r to D, by a randomised decomposition where D is large. A and B have
/// orthonormal rows and columns, by which the gradient of R is the best that a change B·R·A can follow the whole
/// gradient by. The authors' scale is s = 1 (α = r under α/r), and their `step` the first learning rate of warm-up. W
/// stays as it is.
///
/// Throws `c10::ValueError` for a step that is not above 0, for an adapter without a core, for a rank over the weight's
/// sizes and for a gradient that is 0.
std::shared_ptr<const Initializer> lora_sb(double step);

} // namespace rora
