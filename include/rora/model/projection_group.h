#pragma once

#include <rora/core/gradient_rows.h>
#include <rora/core/projection.h>
#include <rora/model/rms_norm.h>

#include <ATen/core/Tensor.h>
#include <c10/util/intrusive_ptr.h>

#include <initializer_list>
#include <optional>
#include <vector>

namespace rora {

/// What projections give.
struct Projected {
  std::vector<at::Tensor> outputs; ///< in the projections' order
  /// Where the outputs' gradients had best be written, a place for each in their order; null: anywhere.
  c10::intrusive_ptr<ops::GradientRows> gradient_rows{};

  ops::GradientPlace place(size_t number) const {
    return {gradient_rows, number};
  }
};

/// The outputs of projections that read the same x `[..., in]` (q, k and v; gate and up): one graph node where all of
/// them are low-rank or frozen.
Projected project_together(const at::Tensor& x, std::initializer_list<ProjectionImpl*> projections);

/// `project_together` of the norm of the stream's sum, which becomes its states. On a GPU, the norm forms what the
/// low-rank branches share as it writes its result, where they share it; not on the CPU, where that would save
/// nothing. `forms_again`: what the projections keep of the norm's result is formed again in their backward.
Projected project_norm(
    RMSNormImpl& norm, ResidualStream& stream, std::initializer_list<ProjectionImpl*> projections,
    bool forms_again = false);

namespace detail {

/// The projections as terms of one graph node; none where an adapter among them computes another way.
std::optional<std::vector<ops::LowRankTerm>> terms_together(std::initializer_list<ProjectionImpl*> projections);

/// `project_norm` of terms that take one Ŝ: the norm forms it.
Projected project_norm_with_shrunk(
    RMSNormImpl& norm, ResidualStream& stream, std::vector<ops::LowRankTerm> terms, bool forms_again = false);

} // namespace detail
} // namespace rora
