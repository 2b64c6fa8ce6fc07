#include "pruned_parts.h"

#include <rora/model/pruning.h>

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <tuple>
#include <utility>

namespace rora {
namespace {

using detail::PrunableLayer;

/// A group of heads, or a channel, of a layer.
struct Part {
  double importance = 0.0;
  size_t layer = 0;
  int64_t number = 0;
};

/// What is removed together, and the parameters that have gone after each step: one more than there are steps.
struct Removal {
  std::vector<std::vector<Part>> steps;
  std::vector<int64_t> removed{0};
  int64_t all = 0; ///< parameters of all parts, with those that stay
};

/// A layer's parts but its most important one, which stays, from the least important on.
std::vector<Part> removable(const at::Tensor& importance, size_t layer) {
  std::vector<Part> parts;
  const auto values = importance.accessor<double, 1>();
  for (int64_t i = 0; i < values.size(0); ++i) {
    parts.push_back({values[i], layer, i});
  }
  const auto less = [](const Part& a, const Part& b) { return a.importance < b.importance; };
  std::stable_sort(parts.begin(), parts.end(), less);
  if (!parts.empty()) {
    parts.pop_back();
  }
  return parts;
}

/// How parts go whose importances and numbers of parameters each layer has: in one ranking over the layers, or one of
/// each layer at a time.
Removal plan_removal(const std::vector<at::Tensor>& importance, const std::vector<int64_t>& parameters, bool by_layer) {
  Removal removal;
  std::vector<Part> ranking;
  for (size_t layer = 0; layer < importance.size(); ++layer) {
    const std::vector<Part> parts = removable(importance[layer], layer);
    removal.all += parameters[layer] * importance[layer].numel();
    ranking.insert(ranking.end(), parts.begin(), parts.end());
    if (!by_layer) {
      removal.steps.resize(parts.size());
      for (size_t i = 0; i < parts.size(); ++i) {
        removal.steps[i].push_back(parts[i]);
      }
    }
  }
  if (by_layer) {
    std::stable_sort(
        ranking.begin(), ranking.end(), [](const Part& a, const Part& b) { return a.importance < b.importance; });
    for (const Part& each : ranking) {
      removal.steps.push_back({each});
    }
  }
  for (const std::vector<Part>& step : removal.steps) {
    int64_t removed = removal.removed.back();
    for (const Part& each : step) {
      removed += parameters[each.layer];
    }
    removal.removed.push_back(removed);
  }
  return removal;
}

/// The number of steps that removes about so many parameters.
size_t nearest(const std::vector<int64_t>& removed, double wanted) {
  const auto above = std::lower_bound(removed.begin(), removed.end(), wanted);
  if (above == removed.begin() || (above != removed.end() && *above - wanted < wanted - *(above - 1))) {
    return static_cast<size_t>(above - removed.begin());
  }
  return static_cast<size_t>(above - removed.begin()) - 1;
}

/// How many steps of groups of heads, for which `may_stop` after so many, and of channels.
std::pair<size_t, size_t> choose_steps(
    const Removal& groups, const Removal& channels, double target, double share,
    const std::function<bool(size_t)>& may_stop) {
  std::tuple<double, double, size_t> best;
  for (size_t i = 0; i < groups.removed.size(); ++i) {
    const double left = target - static_cast<double>(groups.removed[i]);
    const double beyond = std::max({0.0, -left, left - static_cast<double>(channels.removed.back())});
    const double off = std::abs(static_cast<double>(groups.removed[i]) - share * static_cast<double>(groups.all));
    const auto candidate = std::make_tuple(beyond, off, i);
    if (i == 0 || (may_stop(i) && candidate < best)) {
      best = candidate;
    }
  }
  const size_t steps = std::get<2>(best);
  return {steps, nearest(channels.removed, target - static_cast<double>(groups.removed[steps]))};
}

void check_importance(const char* what, const at::Tensor& importance, int64_t parts, const std::string& layer) {
  TORCH_CHECK_VALUE(
      importance.defined() && importance.dim() == 1 && importance.numel() == parts &&
          importance.scalar_type() == at::kDouble && importance.is_cpu(),
      layer, " must have the importance of ", parts, " ", what, ", in fp64 on the CPU");
  TORCH_CHECK_VALUE(importance.isfinite().all().item<bool>(), layer, " has an importance that is not finite");
}

/// Parameters of a group of heads, or of a channel, in a layer.
int64_t group_parameters(const PrunableLayer& layer, const DecoderOptions& options) {
  if (layer.groups == 0) {
    return 0;
  }
  const ProjectionBiases& bias = options.bias();
  const int64_t width = options.hidden_size();
  const int64_t norms = options.qk_norm_of_all_heads() ? layer.query_width + layer.head_dim : 0;
  return layer.query_width * (2 * width + bias.q) + layer.head_dim * (2 * width + bias.k + bias.v) + norms;
}

int64_t channel_parameters(const DecoderOptions& options) {
  return 3 * options.hidden_size() + options.bias().gate + options.bias().up;
}

/// All parts but those of the first steps of each removal.
std::vector<KeptParts> without(
    const std::vector<PrunableLayer>& layers, const Removal& groups, const Removal& channels,
    std::pair<size_t, size_t> steps) {
  const auto kept = [&](int64_t PrunableLayer::*count, const Removal& removal, size_t first_steps) {
    std::vector<std::vector<bool>> gone;
    for (const PrunableLayer& layer : layers) {
      gone.emplace_back(static_cast<size_t>(layer.*count), false);
    }
    for (size_t i = 0; i < first_steps; ++i) {
      for (const Part& each : removal.steps[i]) {
        gone[each.layer][static_cast<size_t>(each.number)] = true;
      }
    }
    std::vector<std::vector<int64_t>> left(layers.size());
    for (size_t layer = 0; layer < layers.size(); ++layer) {
      for (size_t i = 0; i < gone[layer].size(); ++i) {
        if (!gone[layer][i]) {
          left[layer].push_back(static_cast<int64_t>(i));
        }
      }
    }
    return left;
  };
  const auto kept_groups = kept(&PrunableLayer::groups, groups, steps.first);
  const auto kept_channels = kept(&PrunableLayer::channels, channels, steps.second);
  std::vector<KeptParts> result;
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    result.push_back({kept_groups[layer], kept_channels[layer]});
  }
  return result;
}

} // namespace

std::vector<KeptParts> choose_kept(
    const CausalLMImpl& model, const std::vector<LayerImportance>& importance, const PruneOptions& options) {
  const double share = options.share();
  const bool by_layer = options.by_layer();
  TORCH_CHECK_VALUE(share >= 0.0 && share < 1.0, "the share that is removed must be in [0, 1), not ", share);
  const auto layers = detail::prunable_layers(detail::prunable_decoder(model));
  TORCH_CHECK_VALUE(
      importance.size() == layers.size(), "there are ", layers.size(), " layers, and importances of ",
      importance.size());
  std::vector<at::Tensor> of_groups, of_channels;
  std::vector<int64_t> group_sizes, channel_sizes;
  for (size_t i = 0; i < layers.size(); ++i) {
    check_importance("groups of heads", importance[i].groups, layers[i].groups, layers[i].prefix + "self_attn");
    check_importance("channels", importance[i].channels, layers[i].channels, layers[i].prefix + "mlp");
    TORCH_CHECK_VALUE(
        by_layer || model.options.layer_shape(static_cast<int64_t>(i)) == model.options.layer_shape(0),
        "the layers have unlike widths, and to prune them all alike they must be alike; by_layer takes them");
    of_groups.push_back(importance[i].groups);
    of_channels.push_back(importance[i].channels);
    group_sizes.push_back(group_parameters(layers[i], model.options));
    channel_sizes.push_back(channel_parameters(model.options));
  }
  const Removal groups = plan_removal(of_groups, group_sizes, by_layer);
  const Removal channels = plan_removal(of_channels, channel_sizes, by_layer);
  const auto all = static_cast<double>(decoder_layer_parameters(model));
  const double most = static_cast<double>(groups.removed.back() + channels.removed.back()) / all;
  TORCH_CHECK_VALUE(
      share <= most, "a share of ", share,
      " of the decoder layers' parameters cannot be removed: while a group of "
      "heads and a channel stay in each layer, ",
      most, " is the most");
  const LayerShape shape = model.options.layer_shape(0);
  const int64_t hidden = model.options.hidden_size();
  const auto may_stop = [&](size_t steps) {
    if (by_layer || hidden % shape.num_attention_heads != 0) {
      return true;
    }
    const int64_t left = layers[0].groups - static_cast<int64_t>(steps);
    return hidden % (left * layers[0].query_width / layers[0].head_dim) == 0;
  };
  return without(layers, groups, channels, choose_steps(groups, channels, share * all, share, may_stop));
}

} // namespace rora
