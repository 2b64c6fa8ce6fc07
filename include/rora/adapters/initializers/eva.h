#pragma once

#include <rora/core/initializer.h>

#include <memory>

namespace rora {

/// EVA (arXiv 2410.07170): A from where the weight's inputs vary most, and ranks by how much of their variance that
/// explains. Of the covariance E[x·xᵀ] − E[x]·E[x]ᵀ `[in, in]` of the inputs at labelled tokens, the eigenvectors of
/// the largest eigenvalues become the rows of A, orthonormal; B is 0, so that the model begins as it was.
///
/// Up to round(ρ·r) directions of each module are candidates. All modules' are sorted by the share of their module's
/// variance that they explain, and the first Σr of them each give their module a rank; one without any has no adapter.
/// A module's alpha is such that its scale is that of the rank asked for, as with PEFT's `adjust_scaling_factors`.
///
/// The eigenvectors are those that PEFT's incremental decomposition approaches, from moments over all tokens at once:
/// in² numbers a weight. Throws `c10::ValueError` for a ρ below 1, and for inputs that do not vary, or that vary in
/// fewer directions than there are ranks to give out, as where few tokens are labelled.
std::shared_ptr<const Initializer> eva(double rho = 2.0);

} // namespace rora
