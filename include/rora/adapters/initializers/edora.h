#pragma once

#include <rora/core/initializer.h>

#include <memory>

namespace rora {

/// EDoRA (arXiv 2501.12067), for `LowRankOptions::core` with DoRA: from the first r singular values S and vectors U, V
/// of W, by ten iterations of a randomised decomposition,
///
///   A = S·Vᵀ,  B = U,  R from a normal with deviation 1e-5.
///
/// The magnitude begins as the length of each row of W + s·B·R·A, so that the layer begins as W + s·B·R·A, which is all
/// but W. (The authors take the length of W's rows, before there is an R.) Without DoRA it is LoRA-XS
/// (arXiv 2405.17604).
///
/// Throws `c10::ValueError` for an adapter without a core, and for a rank over the weight's sizes.
std::shared_ptr<const Initializer> edora();

} // namespace rora
