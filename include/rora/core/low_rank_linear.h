#pragma once

#include <rora/core/gradient_buffer.h>
#include <rora/core/gradient_rows.h>
#include <rora/core/linear_weight.h>
#include <rora/core/linkage.h>
#include <rora/core/low_rank_term.h>

#include <ATen/core/Tensor.h>
#include <c10/util/intrusive_ptr.h>

#include <vector>

namespace rora::ops {
namespace detail {

struct LowRankForm;

/// Whether one Ŝ, formed before, may serve for the terms: they share it, or there is one, whose branch reads x itself.
bool takes_shrunk(const std::vector<LowRankTerm>& terms);

/// The terms' A side by side, for one product with x `[Σ padded rank, in]`.
at::Tensor side_by_side(const std::vector<LowRankTerm>& terms, const LowRankForm& form);

/// Rows for the gradients of the terms' outputs, where dS beside these and A below the last W spare a product; null
/// elsewhere.
c10::intrusive_ptr<GradientRows> gradient_rows(const std::vector<LowRankTerm>& terms, const LowRankForm& form);

/// `low_rank_linear` with A and B in the form that a device's products take.
std::vector<at::Tensor> low_rank_linear_in(
    const LowRankForm& form, const at::Tensor& x, std::vector<LowRankTerm> terms, const at::Tensor& shrunk = {},
    const c10::intrusive_ptr<GradientRows>& rows = {});

} // namespace detail

/// Applies every term to the same x `[..., in]`, in x's dtype; the i-th result is `[..., out_i]`. Gradients come back
/// in each tensor's own dtype.
///
/// `shrunk` `[tokens, Σ rank]` is s·x·Aᵀ of all terms side by side, as `detail::side_by_side` has their A, where the
/// caller has it already, as rounded as x. It is no input of the graph: x's and A's gradients are the same with it as
/// without. Throws where the terms do not share one Ŝ of x itself, or where it has another size or dtype or needs a
/// gradient.
///
/// `rows` is null, or what `detail::gradient_rows` has made for the same terms, and throws for others: where the
/// outputs' gradients are written there, dx is one product with them.
std::vector<at::Tensor> low_rank_linear(
    const at::Tensor& x, std::vector<LowRankTerm> terms, const at::Tensor& shrunk = {},
    const c10::intrusive_ptr<GradientRows>& rows = {});

} // namespace rora::ops

#if !defined(RORA_LINKED)
#include <rora/core/low_rank_linear_inl.h>
#endif
