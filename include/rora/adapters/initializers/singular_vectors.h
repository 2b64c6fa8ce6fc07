#pragma once

#include <rora/core/initializer.h>

#include <cstdint>
#include <memory>

namespace rora {

/// PiSSA (arXiv 2404.02948): of W = U·S·Vᵀ the first r singular values and vectors become the adapter,
///
///   A = (S/s)^½·Vᵀ,  B = U·(S/s)^½,  and W − s·B·A in W's place,
///
/// so that the model begins as it was, and trains what W does most. By an exact decomposition, or for large weights by
/// that many `iterations` of a randomised one, as PEFT's "pissa_niter_N" has it. What is written are the differences to
/// the untouched W, an adapter of twice the rank. Throws `c10::ValueError` for a rank over the weight's sizes.
std::shared_ptr<const Initializer> pissa(int64_t iterations = 0);

/// MiLoRA (arXiv 2406.09044): the same from the last r of all min(in, out) singular values, what W does least, by an
/// exact decomposition. A weight whose last singular values are 0 gives factors of 0, which get no gradient.
std::shared_ptr<const Initializer> milora();

} // namespace rora
