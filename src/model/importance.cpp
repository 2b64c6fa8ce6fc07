#include "pruned_parts.h"

#include <rora/model/pruning.h>

#include <ATen/ATen.h>

#include <functional>

namespace rora {
namespace {

using detail::PrunableLayer;

/// What each weight of the projection of that name counts, `[out, in]`.
using Measure = std::function<at::Tensor(const std::string& module, const ProjectionImpl& projection)>;

at::Tensor widened(const at::Tensor& tensor) {
  return tensor.to(at::promote_types(tensor.scalar_type(), at::kFloat));
}

/// Sums of what the layer's weights count, by group of heads and by channel.
LayerImportance sums(const PrunableLayer& of, const Measure& measure) {
  const auto by_part = [&](const std::string& module, const Projection& projection, int64_t along, int64_t parts) {
    const at::Tensor sum = measure(of.prefix + module, *projection).sum({along}, /*keepdim=*/false, at::kDouble);
    return sum.view({parts, -1}).sum(1).cpu();
  };
  const at::Tensor none = at::empty({0}, at::kDouble);
  LayerImportance importance{none, none};
  if (of.groups > 0) {
    const Attention& attention = of.layer->self_attn;
    importance.groups = by_part("self_attn.q_proj", attention->q_proj, 1, of.groups) +
        by_part("self_attn.k_proj", attention->k_proj, 1, of.groups) +
        by_part("self_attn.v_proj", attention->v_proj, 1, of.groups) +
        by_part("self_attn.o_proj", attention->o_proj, 0, of.groups);
  }
  if (of.channels > 0) {
    const MLP& mlp = of.layer->mlp;
    importance.channels = by_part("mlp.gate_proj", mlp->gate_proj, 1, of.channels) +
        by_part("mlp.up_proj", mlp->up_proj, 1, of.channels) + by_part("mlp.down_proj", mlp->down_proj, 0, of.channels);
  }
  return importance;
}

std::vector<LayerImportance> sums_of_layers(const CausalLMImpl& model, const Measure& measure) {
  at::NoGradGuard no_grad;
  std::vector<LayerImportance> importance;
  for (const PrunableLayer& layer : detail::prunable_layers(detail::prunable_decoder(model))) {
    importance.push_back(sums(layer, measure));
  }
  return importance;
}

} // namespace

std::vector<std::string> prunable_modules(const CausalLMImpl& model) {
  std::vector<std::string> modules;
  for (const PrunableLayer& layer : detail::prunable_layers(detail::prunable_decoder(model))) {
    const auto add = [&](int64_t parts, std::initializer_list<const char*> names) {
      for (const char* name : names) {
        if (parts > 0) {
          modules.push_back(layer.prefix + name);
        }
      }
    };
    add(layer.groups, {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"});
    add(layer.channels, {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"});
  }
  return modules;
}

std::vector<LayerImportance> magnitude_importance(const CausalLMImpl& model) {
  auto importance = sums_of_layers(model, [](const std::string& /*module*/, const ProjectionImpl& projection) {
    return widened(projection.weight).square();
  });
  for (LayerImportance& each : importance) {
    each = {each.groups.sqrt(), each.channels.sqrt()};
  }
  return importance;
}

std::vector<LayerImportance> taylor_importance(
    const CausalLMImpl& model, const std::map<std::string, WeightStatistics>& gradients) {
  return sums_of_layers(model, [&](const std::string& module, const ProjectionImpl& projection) {
    const auto found = gradients.find(module);
    TORCH_CHECK_VALUE(found != gradients.end() && found->second.gradient.defined(), "there is no gradient of ", module);
    const at::Tensor gradient = found->second.gradient.to(projection.weight.device());
    TORCH_CHECK_VALUE(
        gradient.sizes() == projection.weight.sizes(), "the gradient of ", module, " must have shape ",
        projection.weight.sizes(), ", not ", gradient.sizes());
    TORCH_CHECK_VALUE(gradient.isfinite().all().item<bool>(), "the gradient of ", module, " is not finite");
    return (widened(projection.weight) * gradient).abs();
  });
}

} // namespace rora
