#include <rora/model/packed_weights.h>

#include <rora/core/projection.h>
#include <rora/ops/packed_weight.h>

#include <vector>

namespace rora {

int64_t pack_weights(CausalLM model) {
  std::vector<ProjectionImpl*> projections;
  for (const auto& module : model->named_modules("", /*include_self=*/false)) {
    if (auto* projection = module.value()->as<ProjectionImpl>(); projection != nullptr && module.key() != "lm_head") {
      TORCH_CHECK_VALUE(
          projection->weight.device().is_cpu() && ops::can_pack_weights(projection->weight.scalar_type()), "weights of ",
          projection->weight.scalar_type(), " on ", projection->weight.device(), " are not packed on this processor");
      TORCH_CHECK_VALUE(!projection->weight.requires_grad(), "weights that are trained change and are not packed");
      TORCH_CHECK_VALUE(!projection->merged(), "unmerge the adapter before packing weights");
      projections.push_back(projection);
    }
  }
  int64_t bytes = 0;
  for (ProjectionImpl* projection : projections) {
    projection->set_base(ops::pack_weight(projection->weight));
    bytes += projection->base().packed_bytes();
  }
  return bytes;
}

} // namespace rora
