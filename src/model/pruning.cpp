#include <rora/model/pruning.h>

#include "pruned_parts.h"

#include <rora/model/families/family.h>

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

namespace rora {
namespace {

using detail::PrunableLayer;

/// What of a tensor stays: the entries `index` of dimension `dim`.
struct Selection {
  int64_t dim = 0;
  at::Tensor index;
};
using Selections = std::map<std::string, Selection>; // by the parameter's name

/// The rows, `width` for each part, of the parts of those numbers.
at::Tensor rows_of(const std::vector<int64_t>& parts, int64_t width) {
  return (at::tensor(parts, at::kLong).unsqueeze(1) * width + at::arange(width, at::kLong)).flatten();
}

void check_parts(const char* what, const std::vector<int64_t>& parts, int64_t all, const std::string& layer) {
  TORCH_CHECK_VALUE(parts.empty() == (all == 0), layer, ": ", parts.size(), " of ", all, " ", what, " cannot stay");
  for (size_t i = 0; i < parts.size(); ++i) {
    TORCH_CHECK_VALUE(
        parts[i] >= 0 && parts[i] < all && (i == 0 || parts[i] > parts[i - 1]), layer, ": the kept ", what,
        " must be ascending numbers below ", all);
  }
}

/// Notes what stays of the layer's tensors; those that lose nothing are left out.
void select_parts(const PrunableLayer& from, const KeptParts& kept, bool norms_all_heads, Selections& selections) {
  check_parts("groups of heads", kept.groups, from.groups, from.prefix + "self_attn");
  check_parts("channels", kept.channels, from.channels, from.prefix + "mlp");
  const auto rows = [&](const std::string& module, const at::Tensor& index) {
    selections[from.prefix + module + ".weight"] = {0, index};
    selections[from.prefix + module + ".bias"] = {0, index};
  };
  const auto columns = [&](const std::string& module, const at::Tensor& index) {
    selections[from.prefix + module + ".weight"] = {1, index};
  };
  if (std::ssize(kept.groups) < from.groups) {
    const at::Tensor query = rows_of(kept.groups, from.query_width);
    const at::Tensor key_value = rows_of(kept.groups, from.head_dim);
    rows("self_attn.q_proj", query);
    rows("self_attn.k_proj", key_value);
    rows("self_attn.v_proj", key_value);
    columns("self_attn.o_proj", query);
    if (norms_all_heads) {
      rows("self_attn.q_norm", query);
      rows("self_attn.k_norm", key_value);
    }
  }
  if (std::ssize(kept.channels) < from.channels) {
    const at::Tensor index = rows_of(kept.channels, 1);
    rows("mlp.gate_proj", index);
    rows("mlp.up_proj", index);
    columns("mlp.down_proj", index);
  }
}

/// The options of a model of those widths: the fields of all layers where they are alike.
DecoderOptions with_shapes(const DecoderOptions& from, std::vector<LayerShape> shapes) {
  DecoderOptions options = from;
  options.head_dim(from.resolved_head_dim()).layer_shapes({});
  const LayerShape first = shapes.front();
  if (std::any_of(shapes.begin(), shapes.end(), [&](const LayerShape& each) { return each != first; })) {
    return options.layer_shapes(std::move(shapes));
  }
  return options.num_attention_heads(first.num_attention_heads)
      .num_key_value_heads(first.num_key_value_heads)
      .intermediate_size(first.intermediate_size);
}

} // namespace

namespace detail {

const DecoderForCausalLMImpl& prunable_decoder(const CausalLMImpl& model) {
  const auto* decoder = dynamic_cast<const DecoderForCausalLMImpl*>(&model);
  TORCH_CHECK_VALUE(decoder != nullptr, "only a DecoderForCausalLM is pruned");
  const auto check_no_adapters = [](const std::string& name, const auto& adapters) {
    TORCH_CHECK_VALUE(
        adapters.empty(), name, " has the adapter '", adapters.begin()->first,
        "', whose weights do not go by heads and channels: detach it, or save the merged model and prune that");
  };
  for (const auto& item : model.named_modules("", /*include_self=*/false)) {
    if (const auto* projection = item.value()->as<ProjectionImpl>()) {
      TORCH_CHECK_VALUE(
          !projection->merged(), item.key(),
          ": an adapter is merged into its weight, which unmerging would look for: "
          "save the merged model and prune that");
      check_no_adapters(item.key(), projection->adapters());
      TORCH_CHECK_VALUE(projection->weight.defined(), item.key(), ": only a dense weight is pruned");
    } else if (const auto* attention = item.value()->as<AttentionImpl>()) {
      check_no_adapters(item.key(), attention->adapters());
    } else if (const auto* mlp = item.value()->as<MLPImpl>()) {
      check_no_adapters(item.key(), mlp->adapters());
    }
  }
  return *decoder;
}

std::vector<PrunableLayer> prunable_layers(const DecoderForCausalLMImpl& decoder) {
  std::vector<PrunableLayer> layers;
  for (int64_t i = 0; i < decoder.options.num_hidden_layers(); ++i) {
    PrunableLayer each;
    each.prefix = "model.layers." + std::to_string(i) + ".";
    each.layer = decoder.model->layers->ptr<DecoderLayerImpl>(static_cast<size_t>(i)).get();
    const LayerShape shape = decoder.options.layer_shape(i);
    each.groups = shape.num_attention_heads > 0 ? shape.num_key_value_heads : 0;
    each.head_dim = decoder.options.resolved_head_dim();
    each.query_width = each.groups > 0 ? shape.num_attention_heads / shape.num_key_value_heads * each.head_dim : 0;
    each.channels = shape.intermediate_size;
    layers.push_back(std::move(each));
  }
  return layers;
}

} // namespace detail

int64_t decoder_layer_parameters(const CausalLMImpl& model) {
  int64_t count = 0;
  for (const auto& item : model.named_parameters()) {
    count += item.key().starts_with("model.layers.") ? item.value().numel() : 0;
  }
  return count;
}

CausalLM prune(const CausalLMImpl& model, const std::vector<KeptParts>& kept) {
  at::NoGradGuard no_grad;
  const DecoderForCausalLMImpl& decoder = detail::prunable_decoder(model);
  const std::vector<PrunableLayer> layers = detail::prunable_layers(decoder);
  TORCH_CHECK_VALUE(
      kept.size() == layers.size(), "what is kept must be named for each of ", layers.size(), " layers, not for ",
      kept.size());
  Selections selections;
  std::vector<LayerShape> shapes;
  for (size_t i = 0; i < layers.size(); ++i) {
    select_parts(layers[i], kept[i], model.options.qk_norm_of_all_heads(), selections);
    const auto groups = std::ssize(kept[i].groups);
    shapes.push_back({groups * layers[i].query_width / layers[i].head_dim, groups, std::ssize(kept[i].channels)});
  }
  const ModelFamily& family = family_of(model.options.model_type());
  CausalLM pruned = family.make(with_shapes(model.options, std::move(shapes)));
  const auto originals = model.named_parameters();
  for (auto& item : pruned->named_parameters()) {
    at::Tensor tensor = originals[item.key()].detach();
    if (const auto found = selections.find(item.key()); found != selections.end()) {
      tensor = tensor.index_select(found->second.dim, found->second.index.to(tensor.device()));
    }
    item.value().set_data(tensor);
  }
  pruned->eval();
  return pruned;
}

} // namespace rora
