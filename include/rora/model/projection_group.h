#pragma once

#include <rora/core/projection.h>
#include <rora/model/rms_norm.h>

#include <ATen/core/Tensor.h>

#include <initializer_list>
#include <vector>

namespace rora {

/// The outputs of projections that read the same x `[..., in]` (q, k and v; gate and up), in their order: one graph node
/// where all of them are low-rank or frozen.
std::vector<at::Tensor> project_together(const at::Tensor& x, std::initializer_list<ProjectionImpl*> projections);

/// `project_together` of the norm of the stream's sum, which becomes its states. On a GPU, the norm forms what the low-rank
/// branches share as it writes its result, where they share it; not on the CPU, where that would save nothing.
std::vector<at::Tensor> project_norm(
    RMSNormImpl& norm, ResidualStream& stream, std::initializer_list<ProjectionImpl*> projections);

} // namespace rora
