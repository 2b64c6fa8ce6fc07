#pragma once

#include <rora/model/causal_lm.h>
#include <rora/core/projection.h>
#include <rora/model/embedding.h>

#include <vector>

namespace rora::detail {

/// The model's projections with dense weights, all but the head. Throws, with what it is `before`, where one is trained
/// or an adapter is merged.
inline std::vector<ProjectionImpl*> frozen_projections(CausalLMImpl& model, const char* before) {
  std::vector<ProjectionImpl*> projections;
  for (const auto& module : model.named_modules("", /*include_self=*/false)) {
    auto* projection = module.value()->as<ProjectionImpl>();
    if (projection != nullptr && projection->weight.defined() && module.key() != "lm_head" &&
        module.value()->as<EmbeddingImpl>() == nullptr) {
      TORCH_CHECK_VALUE(
          !projection->weight.requires_grad(), "weights that are trained change: freeze them before ", before);
      TORCH_CHECK_VALUE(!projection->merged(), "unmerge the adapter before ", before);
      projections.push_back(projection);
    }
  }
  return projections;
}

} // namespace rora::detail
