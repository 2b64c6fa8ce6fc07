#include <rora/model/prepacked_weights.h>

#include "frozen_projections.h"

#include <rora/ops/prepacked_weight.h>

#include <vector>

namespace rora {

int64_t prepack_weights(CausalLM model) {
  const std::vector<ProjectionImpl*> projections = detail::frozen_projections(*model, "packing weights");
  for (const ProjectionImpl* projection : projections) {
    const at::Tensor& weight = projection->weight;
    TORCH_CHECK_VALUE(
        weight.device().is_cpu() && ops::can_prepack_weights(weight.scalar_type()), "weights of ", weight.scalar_type(),
        " on ", weight.device(), " are not packed on this processor");
  }
  int64_t bytes = 0;
  for (ProjectionImpl* projection : projections) {
    projection->set_base(ops::prepack_weight(projection->weight));
    bytes += projection->base().prepacked_bytes();
  }
  return bytes;
}

} // namespace rora
