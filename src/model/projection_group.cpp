#include <rora/model/projection_group.h>

#include "recomputation.h"

#include <rora/core/low_rank_linear.h>
#include <rora/core/low_rank_matrices.h>
#include <rora/ops/rms_norm.h>
#include <rora/ops/rms_norm_shrink.h>

#include <ATen/ATen.h>

#include <algorithm>
#include <optional>
#include <utility>

namespace rora {
namespace {

/// The norm of the sum, and what the terms share of it.
ops::NormedAndShrunk norm_and_shrink(
    const at::Tensor& states, const StreamChange& change, const at::Tensor& weight, double eps,
    const std::vector<ops::LowRankTerm>& terms) {
  const at::Tensor a = [&] {
    at::NoGradGuard no_grad; // A's gradient comes from the terms
    return ops::detail::side_by_side(terms, ops::detail::LowRankForm::of_device(states));
  }();
  return ops::add_rms_norm_shrink(states, change.values, weight, eps, a, terms[0].scale, change.place);
}

/// The terms as one graph node. What follows it is told where to write the outputs' gradients, unless DoRA is among the
/// terms: its products read n⊙dy, which the node forms itself.
Projected project(const at::Tensor& x, std::vector<ops::LowRankTerm> terms, const at::Tensor& shrunk = {}) {
  const auto rows = ops::detail::gradient_rows(terms, ops::detail::LowRankForm::of_device(x));
  const bool dora = std::any_of(terms.begin(), terms.end(), [](const auto& term) { return term.dora(); });
  Projected projected{ops::low_rank_linear(x, std::move(terms), shrunk, rows)};
  if (!dora) {
    projected.gradient_rows = rows;
  }
  return projected;
}

} // namespace

namespace detail {

std::optional<std::vector<ops::LowRankTerm>> terms_together(std::initializer_list<ProjectionImpl*> projections) {
  std::vector<ops::LowRankTerm> terms;
  for (ProjectionImpl* projection : projections) {
    terms.push_back(projection->frozen_term());
    Adapter* adapter = projection->active_adapter();
    if (adapter != nullptr && !adapter->low_rank_term(*projection, terms.back())) {
      return std::nullopt;
    }
  }
  return terms;
}

Projected project_norm_with_shrunk(
    RMSNormImpl& norm, ResidualStream& stream, std::vector<ops::LowRankTerm> terms, bool forms_again) {
  const std::vector<ops::LowRankTerm> kept = forms_again ? terms : std::vector<ops::LowRankTerm>();
  auto [sum, y, shrunk] = norm_and_shrink(stream.states, stream.change, norm.weight, norm.eps, terms);
  stream = {std::move(sum)};
  Projected projected = project(y, std::move(terms), shrunk);
  if (forms_again) {
    shrunk.reset();
    const auto form = [states = stream.states.detach(), weight = norm.weight.detach(), eps = norm.eps, kept] {
      return norm_and_shrink(states, {}, weight, eps, kept).y;
    };
    form_again(std::move(y), form, projected.outputs);
  }
  return projected;
}

} // namespace detail

Projected project_together(const at::Tensor& x, std::initializer_list<ProjectionImpl*> projections) {
  if (auto terms = detail::terms_together(projections)) {
    return project(x, std::move(*terms));
  }
  Projected projected;
  for (ProjectionImpl* each : projections) {
    projected.outputs.push_back(each->forward(x));
  }
  return projected;
}

Projected project_norm(
    RMSNormImpl& norm, ResidualStream& stream, std::initializer_list<ProjectionImpl*> projections, bool forms_again) {
  auto terms = stream.states.is_cuda() ? detail::terms_together(projections) : std::nullopt;
  if (terms && ops::detail::takes_shrunk(*terms) && !norm.adds_one) {
    return detail::project_norm_with_shrunk(norm, stream, std::move(*terms), forms_again);
  }
  at::Tensor y = norm.forward(stream);
  Projected projected = terms ? project(y, std::move(*terms)) : project_together(y, projections);
  if (forms_again) {
    const auto form = [states = stream.states.detach(), factor = norm.factor().detach(), eps = norm.eps] {
      return ops::rms_norm(states, factor, eps);
    };
    detail::form_again(std::move(y), form, projected.outputs);
  }
  return projected;
}

} // namespace rora
