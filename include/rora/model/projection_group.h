#pragma once

#include <rora/core/projection.h>
#include <rora/model/rms_norm.h>

#include <ATen/core/Tensor.h>

#include <initializer_list>
#include <optional>
#include <vector>

namespace rora {

/// The outputs of projections that read the same x `[..., in]` (q, k and v; gate and up), in their order: one graph
/// node where all of them are low-rank or frozen.
std::vector<at::Tensor> project_together(const at::Tensor& x, std::initializer_list<ProjectionImpl*> projections);

/// `project_together` of the norm of the stream's sum, which becomes its states. On a GPU, the norm forms what the
/// low-rank branches share as it writes its result, where they share it; not on the CPU, where that would save
/// nothing. `forms_again`: what the projections keep of the norm's result is formed again in their backward.
std::vector<at::Tensor> project_norm(
    RMSNormImpl& norm, ResidualStream& stream, std::initializer_list<ProjectionImpl*> projections,
    bool forms_again = false);

namespace detail {

/// The projections as terms of one graph node; none where an adapter among them computes another way.
std::optional<std::vector<ops::LowRankTerm>> terms_together(std::initializer_list<ProjectionImpl*> projections);

/// `project_norm` of terms that take one Ŝ: the norm forms it.
std::vector<at::Tensor> project_norm_with_shrunk(
    RMSNormImpl& norm, ResidualStream& stream, std::vector<ops::LowRankTerm> terms, bool forms_again = false);

} // namespace detail
} // namespace rora
