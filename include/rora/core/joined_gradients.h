#pragma once

#include <rora/core/gradient_rows.h>
#include <rora/core/linear_weight.h>
#include <rora/core/low_rank_matrices.h>
#include <rora/core/low_rank_term.h>

#include <ATen/ATen.h>
#include <c10/util/intrusive_ptr.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

namespace rora::ops::detail {

inline std::vector<at::Tensor> matrices_a(const std::vector<LowRankTerm>& terms) {
  std::vector<at::Tensor> all;
  for (const LowRankTerm& term : terms) {
    all.push_back(term.a);
  }
  return all;
}

inline int64_t sum_of_padded_ranks(const std::vector<LowRankTerm>& terms, const LowRankForm& form) {
  int64_t sum = 0;
  for (const LowRankTerm& term : terms) {
    sum += form.padded(term.a.size(0));
  }
  return sum;
}

/// Whether the terms' W follow each other in one block of memory, as the rows of one matrix.
inline bool lie_below_each_other(const std::vector<LowRankTerm>& terms) {
  for (size_t i = 1; i < terms.size(); ++i) {
    const at::Tensor above = terms[i - 1].weight->backward_matrix(), w = terms[i].weight->backward_matrix();
    if (!above.defined() || !w.defined() || !goes_on(above, w, 0)) {
      return false;
    }
  }
  return true;
}

/// Where all terms' A are to be copied so that they stand below the last W; undefined where that is nowhere.
inline at::Tensor room_for_a(const std::vector<LowRankTerm>& terms, const LowRankForm& form) {
  const LinearWeight& last = *terms.back().weight;
  const bool copies = form.dtype && *form.dtype == last.dtype();
  return copies ? last.below(sum_of_padded_ranks(terms, form)) : at::Tensor();
}

/// The outputs' gradients in one block of memory with their dS, and memory below the last W for A: dx is one product
/// with them.
struct JoinedGradients {
  std::vector<at::Tensor> places; ///< for each dy `[tokens, out]`, or n⊙dy with DoRA, and for dS
  at::Tensor room; ///< for A `[Σ padded rank, in]`

  /// What the node's `rows` hold, if the greater part of the `dys` `[tokens, out]` lies there: the others are copied
  /// beside. With DoRA, places for what n⊙dy will be. None where there are no rows, or no room for A any longer.
  static std::optional<JoinedGradients> of(
      const c10::intrusive_ptr<GradientRows>& rows, const std::vector<LowRankTerm>& terms, const LowRankForm& form,
      std::vector<at::Tensor>& dys) {
    if (rows == nullptr) {
      return std::nullopt;
    }
    GradientRows::Taken taken = rows->take();
    JoinedGradients joined{std::move(taken.places), room_for_a(terms, form)};
    if (!joined.room.defined()) {
      return std::nullopt;
    }
    const auto is_dora = [](const LowRankTerm& term) { return term.dora(); };
    if (std::all_of(terms.begin(), terms.end(), is_dora)) {
      joined.places = rows->fresh(dys[0].size(0), dys[0].options());
      return joined;
    }
    if (joined.places.empty() || std::any_of(terms.begin(), terms.end(), is_dora)) {
      return std::nullopt;
    }
    int64_t in_place = 0, elsewhere = 0;
    for (size_t i = 0; i < dys.size(); ++i) {
      const bool lies_there = lies_in(dys[i], joined.places[i]);
      if (!lies_there && taken.given[i]) { // somebody may hold what was written there
        return std::nullopt;
      }
      (lies_there ? in_place : elsewhere) += dys[i].size(1);
    }
    if (in_place <= elsewhere) {
      return std::nullopt;
    }
    for (size_t i = 0; i < dys.size(); ++i) {
      dys[i] = lies_in(dys[i], joined.places[i]) ? dys[i] : joined.places[i].copy_(dys[i]);
    }
    return joined;
  }

  /// dS `[tokens, Σ padded rank]` of all terms.
  const at::Tensor& shrunk() const {
    return places.back();
  }

  /// Each term's part of dS `[tokens, rank]`, to be written; zeros stand where ranks are padded.
  std::vector<at::Tensor> parts_of_shrunk(const std::vector<LowRankTerm>& terms, const LowRankForm& form) const {
    std::vector<at::Tensor> parts;
    int64_t column = 0;
    for (const LowRankTerm& term : terms) {
      const int64_t rank = term.a.size(0), padded = form.padded(rank);
      parts.push_back(shrunk().narrow(1, column, rank));
      if (padded > rank) {
        shrunk().narrow(1, column + rank, padded - rank).zero_();
      }
      column += padded;
    }
    return parts;
  }

 private:
  static bool lies_in(const at::Tensor& dy, const at::Tensor& place) {
    return dy.is_alias_of(place) && dy.storage_offset() == place.storage_offset() && dy.sizes() == place.sizes() &&
        dy.strides() == place.strides() && dy.dtype() == place.dtype();
  }
};

} // namespace rora::ops::detail
