#pragma once

#include <rora/core/initializer.h>
#include <rora/model/causal_lm.h>

#include <ATen/core/Tensor.h>
#include <torch/arg.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace rora {

/// How much the parts of a layer matter that pruning takes whole, in fp64 on the CPU: the larger, the more.
///
/// A group of heads is a head of keys and values with the query heads that read it, so that the ratio of grouped
/// queries stays: with 9 query heads and 3 of keys and values a group is a third of attention. A channel is one of the
/// MLP's, between gate and up, and down.
struct LayerImportance {
  at::Tensor groups; ///< `[kv_heads]`; empty where the layer has no attention
  at::Tensor channels; ///< `[intermediate]`; empty where the layer has no MLP
};

/// The groups of heads and the channels that stay in a layer, by number, ascending.
struct KeptParts {
  std::vector<int64_t> groups;
  std::vector<int64_t> channels;
};

struct PruneOptions {
  /// Of the parameters of the decoder layers, how much is removed; embedding, head and last norm neither shrink nor
  /// count.
  TORCH_ARG(double, share) = 0.5;
  /// One ranking of all layers' groups of heads, and one of their channels, so that layers come out unlike; else each
  /// layer loses as many, and stays like the others.
  TORCH_ARG(bool, by_layer) = false;
};

/// The names of the projections whose weights belong to groups of heads and to channels: for `capture_gradients`.
/// Throws as `prune` does.
std::vector<std::string> prunable_modules(const CausalLMImpl& model);

/// ‖w‖₂ over the weights w of a group of heads (rows of q, k and v, columns of o) or of a channel (a row of gate and of
/// up, a column of down). Biases do not count. Throws as `prune` does.
std::vector<LayerImportance> magnitude_importance(const CausalLMImpl& model);

/// Σ|w·∂L/∂w| over the same weights: to first order, the most that the loss L changes by without them (Molchanov et
/// al., arXiv 1906.10771; LLM-Pruner, arXiv 2305.11627, its form of single weights without second-order terms).
/// `gradients` are those of the `prunable_modules`, `[out, in]`. Throws `c10::ValueError` where one is missing,
/// misshapen or not finite, and as `prune` does.
std::vector<LayerImportance> taylor_importance(
    const CausalLMImpl& model, const std::map<std::string, WeightStatistics>& gradients);

/// What stays once the parts of least importance are gone. Of equal ones the first in layer and number goes first.
///
/// Groups of heads lose `share` of their parameters, rounded to whole groups; channels make up the rest of the share of
/// the layers, which is met to half a channel (one of each layer, without `by_layer`) wherever there are enough of
/// them. The most important group of heads and channel of each layer stay. Without `by_layer`, numbers of query heads
/// that do not divide `hidden_size` are passed over where the model's own does: transformers' LLaMA and Gemma 3 refuse
/// them.
///
/// Throws `c10::ValueError` for a share outside [0, 1), one that cannot be met as too much has to stay, importances
/// that are not finite or of another model's shape, layers that are unlike without `by_layer`, and as `prune` does.
std::vector<KeptParts> choose_kept(
    const CausalLMImpl& model, const std::vector<LayerImportance>& importance, const PruneOptions& options);

/// A model of the kept parts alone, frozen, in evaluation mode, of the same family, dtype and device; `head_dim`,
/// biases, norms and tying stay. It computes what `model` does where the columns of o and down that belong to the
/// others are zero, but for families that norm all heads' q together (`qk_norm_of_all_heads`): that mean is over the
/// kept ones then. Tensors that lose nothing share `model`'s memory; the others are copies.
///
/// Where the layers are alike, `save_model` writes a folder that transformers loads too; where they are not, one whose
/// config.json says `model`'s own widths and whose tensors say each layer's (`load_model`).
///
/// Throws `c10::ValueError` for a model that is no `DecoderForCausalLM`, has adapters, merged or not, or weights that
/// are not dense, and for parts that are none of the model's, not ascending, or none at all where a layer has some.
CausalLM prune(const CausalLMImpl& model, const std::vector<KeptParts>& kept);

/// The parameters of the decoder layers, of which `PruneOptions::share` is a share.
int64_t decoder_layer_parameters(const CausalLMImpl& model);

} // namespace rora
