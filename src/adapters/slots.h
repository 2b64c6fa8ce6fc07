#pragma once

#include <rora/core/projection.h>
#include <rora/model/decoder_layer.h>

#include <torch/nn/module.h>

namespace rora::detail {

/// Calls `visit(name, slot)` for each module of `model` that has a slot for adapters, in the modules' order: a
/// `ProjectionImpl`, an `AttentionImpl` or an `MLPImpl`.
template <class Visit>
void for_each_slot(const torch::nn::Module& model, const Visit& visit) {
  for (const auto& item : model.named_modules("", /*include_self=*/false)) {
    if (auto* projection = item.value()->as<ProjectionImpl>()) {
      visit(item.key(), *projection);
    } else if (auto* attention = item.value()->as<AttentionImpl>()) {
      visit(item.key(), *attention);
    } else if (auto* mlp = item.value()->as<MLPImpl>()) {
      visit(item.key(), *mlp);
    }
  }
}

} // namespace rora::detail
