#include <rora/model/prepacked_weights.h>

#include <rora/core/projection.h>
#include <rora/model/embedding.h>
#include <rora/ops/prepacked_weight.h>

#include <vector>

namespace rora {

int64_t prepack_weights(CausalLM model) {
  std::vector<ProjectionImpl*> projections;
  for (const auto& module : model->named_modules("", /*include_self=*/false)) {
    auto* projection = module.value()->as<ProjectionImpl>();
    if (projection != nullptr && projection->weight.defined() && module.key() != "lm_head" &&
        module.value()->as<EmbeddingImpl>() == nullptr) {
      const at::Tensor& weight = projection->weight;
      TORCH_CHECK_VALUE(
          weight.device().is_cpu() && ops::can_prepack_weights(weight.scalar_type()), "weights of ",
          weight.scalar_type(), " on ", weight.device(), " are not packed on this processor");
      TORCH_CHECK_VALUE(!weight.requires_grad(), "weights that are trained change and are not packed");
      TORCH_CHECK_VALUE(!projection->merged(), "unmerge the adapter before packing weights");
      projections.push_back(projection);
    }
  }
  int64_t bytes = 0;
  for (ProjectionImpl* projection : projections) {
    projection->set_base(ops::prepack_weight(projection->weight));
    bytes += projection->base().prepacked_bytes();
  }
  return bytes;
}

} // namespace rora
