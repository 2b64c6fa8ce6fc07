#include <rora/model/weights_with_room.h>

#include "frozen_projections.h"

#include <rora/model/decoder_layer.h>
#include <rora/ops/weight_with_room.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace rora {
namespace {

using Projections = std::vector<ProjectionImpl*>;

/// The `projections` by what reads one x: q, k and v of an attention, gate and up of an MLP, any other by itself, and
/// those whose weights are not alike.
std::vector<Projections> by_input(CausalLMImpl& model, Projections projections) {
  std::vector<Projections> groups;
  const auto take = [&](Projections group) {
    const auto is_left = [&](ProjectionImpl* each) {
      return std::find(projections.begin(), projections.end(), each) != projections.end();
    };
    const auto is_like_the_first = [&](ProjectionImpl* each) {
      return each->weight.size(1) == group[0]->weight.size(1) && each->weight.dtype() == group[0]->weight.dtype() &&
          each->weight.device() == group[0]->weight.device();
    };
    if (std::all_of(group.begin(), group.end(), is_left) &&
        std::all_of(group.begin(), group.end(), is_like_the_first)) {
      for (ProjectionImpl* each : group) {
        projections.erase(std::find(projections.begin(), projections.end(), each));
      }
      groups.push_back(std::move(group));
    }
  };
  model.apply([&](torch::nn::Module& module) {
    if (auto* attention = module.as<AttentionImpl>()) {
      take({attention->q_proj.get(), attention->k_proj.get(), attention->v_proj.get()});
    } else if (auto* mlp = module.as<MLPImpl>()) {
      take({mlp->gate_proj.get(), mlp->up_proj.get()});
    }
  });
  for (ProjectionImpl* each : projections) {
    groups.push_back({each});
  }
  return groups;
}

} // namespace

void leave_room_beside_weights(CausalLM model, int64_t rank) {
  for (const Projections& group : by_input(*model, detail::frozen_projections(*model, "making room beside weights"))) {
    std::vector<at::Tensor> weights;
    for (const ProjectionImpl* each : group) {
      weights.push_back(each->weight);
    }
    const auto stored = ops::weights_with_room(weights, rank);
    for (size_t i = 0; i < group.size(); ++i) {
      group[i]->set_base(stored[i]);
    }
  }
}

} // namespace rora
