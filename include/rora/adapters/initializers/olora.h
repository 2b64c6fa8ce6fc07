#pragma once

#include <rora/core/initializer.h>

#include <memory>

namespace rora {

/// OLoRA (arXiv 2406.01775): from W = Q·R the first r columns of Q, which are orthonormal, and rows of R,
///
///   A = R[0:r],  B = Q[:, 0:r],  and W − s·B·A in W's place.
///
/// Only the first r columns of W decide Q: they alone are factorised, and A = Bᵀ·W. Throws `c10::ValueError` for a rank
/// over the weight's sizes.
std::shared_ptr<const Initializer> olora();

} // namespace rora
