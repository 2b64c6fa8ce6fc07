#include "parameter_folder.h"

#include "../shape_text.h"

#include <rora/error.h>

#include <ATen/ATen.h>

#include <algorithm>
#include <initializer_list>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

namespace rora {
namespace {

using detail::kEmbedding;
using detail::kHead;
using detail::ParameterFolder;
using detail::shape_text;

constexpr const char* kQuery = "self_attn.q_proj.weight";
constexpr const char* kKey = "self_attn.k_proj.weight";
constexpr const char* kGate = "mlp.gate_proj.weight";

std::string layer_prefix(int64_t layer) {
  return "model.layers." + std::to_string(layer) + ".";
}

/// The rows of a projection of hidden states, 0 where the layer lacks it. Its columns are looked at too: a tensor
/// without any may claim whatever number of rows.
int64_t rows(const ParameterFolder& folder, const std::string& name, const DecoderOptions& options) {
  if (!folder.contains(name)) {
    return 0;
  }
  const auto shape = folder.shape(name);
  if (shape.size() != 2) {
    throw FormatError(folder.file(name), folder.key(name) + " must have two dimensions, not " + shape_text(shape));
  }
  if (shape[1] != options.hidden_size()) {
    throw FormatError(
        folder.file(name),
        folder.key(name) + " must have the " + std::to_string(options.hidden_size()) +
            " columns of config.json's hidden_size, not shape " + shape_text(shape));
  }
  return shape[0];
}

int64_t heads(const ParameterFolder& folder, const std::string& name, const DecoderOptions& options) {
  const int64_t width = rows(folder, name, options);
  const int64_t head_dim = options.resolved_head_dim();
  if (width % head_dim != 0) {
    throw FormatError(
        folder.file(name),
        folder.key(name) + " has " + std::to_string(width) + " rows, which head_dim " + std::to_string(head_dim) +
            " does not divide");
  }
  return width / head_dim;
}

/// A layer has all of its attention's or its MLP's projections, or none.
void check_all_or_none(
    const ParameterFolder& folder, const std::string& module, std::initializer_list<const char*> names) {
  const auto is_there = [&](const char* name) { return folder.contains(module + name + ".weight"); };
  const char* const* missing = std::find_if_not(names.begin(), names.end(), is_there);
  if (missing != names.end() && std::any_of(names.begin(), names.end(), is_there)) {
    throw FormatError(folder.path(), "tensor " + folder.key(module + *missing + ".weight") + " is missing");
  }
}

/// Every layer's widths, as its tensors have them.
std::vector<LayerShape> layer_shapes(const ParameterFolder& folder, const DecoderOptions& options) {
  std::vector<LayerShape> shapes;
  for (int64_t layer = 0; layer < options.num_hidden_layers(); ++layer) {
    const std::string prefix = layer_prefix(layer);
    check_all_or_none(folder, prefix + "self_attn.", {"q_proj", "k_proj", "v_proj", "o_proj"});
    check_all_or_none(folder, prefix + "mlp.", {"gate_proj", "up_proj", "down_proj"});
    shapes.push_back(
        {heads(folder, prefix + kQuery, options), heads(folder, prefix + kKey, options),
         rows(folder, prefix + kGate, options)});
  }
  return shapes;
}

/// Throws unless config.json says of the layers, which are all alike, what their tensors do.
void check_widths(const ParameterFolder& folder, const DecoderOptions& options, const LayerShape& found) {
  const auto check = [&](const char* field, int64_t told, int64_t stored, const char* projection, const char* unit) {
    if (told == stored) {
      return;
    }
    const std::string name = layer_prefix(0) + projection;
    const std::string said = folder.contains(name)
        ? shape_text(folder.shape(name)) + " has " + std::to_string(stored) + unit + ", and all layers are alike"
        : "is missing, as in all layers";
    throw FormatError(
        folder.path() / "config.json",
        std::string(field) + " is " + std::to_string(told) + ", but " + folder.key(name) + " " + said +
            " (infer_widths takes the tensors at their word)");
  };
  const LayerShape told = options.layer_shape(0);
  const std::string of_heads = " heads of head_dim " + std::to_string(options.resolved_head_dim());
  check("num_attention_heads", told.num_attention_heads, found.num_attention_heads, kQuery, of_heads.c_str());
  check("num_key_value_heads", told.num_key_value_heads, found.num_key_value_heads, kKey, of_heads.c_str());
  check("intermediate_size", told.intermediate_size, found.intermediate_size, kGate, " rows");
}

/// Gives the options the layers' widths. Only layers that differ, as pruning leaves them, may differ from config.json,
/// which has no fields for them, unless `infer` is set.
void fit_widths(const ParameterFolder& folder, DecoderOptions& options, bool infer) {
  std::vector<LayerShape> shapes = layer_shapes(folder, options);
  const LayerShape first = shapes.front();
  if (std::any_of(shapes.begin(), shapes.end(), [&](const LayerShape& each) { return each != first; })) {
    options.layer_shapes(std::move(shapes));
  } else if (!infer) {
    check_widths(folder, options, first);
  } else {
    options.head_dim(options.resolved_head_dim())
        .num_attention_heads(first.num_attention_heads)
        .num_key_value_heads(first.num_key_value_heads)
        .intermediate_size(first.intermediate_size);
  }
}

/// The number of the layer that a tensor is of, as it is written, or nothing.
std::string_view layer_of(std::string_view name) {
  constexpr std::string_view kLayers = "model.layers.";
  const size_t end = name.starts_with(kLayers) ? name.find('.', kLayers.size()) : std::string_view::npos;
  return end == std::string_view::npos ? std::string_view() : name.substr(kLayers.size(), end - kLayers.size());
}

/// Throws unless there are tensors of each of the layers, and of none behind them.
void check_layers(const ParameterFolder& folder, const std::vector<std::string>& names, int64_t layers) {
  std::unordered_set<std::string_view> found;
  for (const std::string& name : names) {
    found.insert(layer_of(name));
  }
  const auto has_layer = [&](int64_t layer) { return found.contains(std::to_string(layer)); };
  if (has_layer(layers) || !has_layer(layers - 1)) {
    throw FormatError(
        folder.path() / "config.json",
        "num_hidden_layers is " + std::to_string(layers) + ", but there are tensors of " +
            (has_layer(layers) ? "more" : "fewer") + " layers");
  }
  for (int64_t layer = 0; layer < layers; ++layer) {
    if (!has_layer(layer)) {
      const std::string prefix = layer_prefix(layer);
      throw FormatError(
          folder.path(), "all tensors of " + folder.key(prefix.substr(0, prefix.size() - 1)) + " are missing");
    }
  }
}

/// Whether the head is the embedding.
bool is_tied(const ParameterFolder& folder, bool configured) {
  const bool embedding = folder.contains(kEmbedding);
  const bool head = folder.contains(kHead);
  if (!embedding && !head) {
    throw FormatError(folder.path(), "neither " + folder.key(kEmbedding) + " nor " + folder.key(kHead) + " is there");
  }
  if (!configured && !(embedding && head)) { // transformers would go on with a random one
    throw FormatError(
        folder.path(), folder.key(embedding ? kHead : kEmbedding) + " is missing, and tie_word_embeddings is false");
  }
  if (!(embedding && head)) {
    return true;
  }
  // Both keys are there: they are one tensor written twice, or the head was trained apart after all.
  const at::Tensor of_embedding = folder.tensor(kEmbedding);
  return configured && at::equal(of_embedding, folder.tensor(kHead).to(of_embedding.scalar_type()));
}

void check_vocabulary(const ParameterFolder& folder, const DecoderOptions& options) {
  const std::string table = folder.contains(kEmbedding) ? kEmbedding : kHead;
  const auto shape = folder.shape(table);
  const std::vector<int64_t> expected{options.vocab_size(), options.hidden_size()};
  if (shape != expected) {
    throw FormatError(
        folder.file(table),
        folder.key(table) + " must be [vocab_size, hidden_size] " + shape_text(expected) + " of config.json, not " +
            shape_text(shape));
  }
}

/// Biases that config.json does not speak of: of q and of gate, as those of the whole block. Throws where it says that
/// there are none: transformers would leave them out.
void find_biases(const ParameterFolder& folder, DecoderOptions& options, const std::vector<std::string>& names) {
  const JsonObject config = JsonObject::read(folder.path() / "config.json");
  const auto has_bias = [&](const char* field, const char* end) {
    const auto found = std::find_if(names.begin(), names.end(), [&](const auto& name) { return name.ends_with(end); });
    if (found != names.end() && config.has(field)) {
      config.fail(field, "is " + config.text(field) + ", but " + folder.key(*found) + " is there");
    }
    return found != names.end();
  };
  if (!options.bias().q && has_bias("attention_bias", "self_attn.q_proj.bias")) {
    options.attention_bias(true);
  }
  if (!options.bias().gate && has_bias("mlp_bias", "mlp.gate_proj.bias")) {
    options.mlp_bias(true);
  }
}

} // namespace

DecoderOptions ModelFamily::fit_to_tensors(
    const DecoderOptions& configured, const ModelFolder& files, bool infer_widths) const {
  const ParameterFolder folder(files, *this);
  const std::vector<std::string> names = folder.names();
  DecoderOptions options = configured;
  options.tie_word_embeddings(is_tied(folder, options.tie_word_embeddings()));
  check_vocabulary(folder, options);
  check_layers(folder, names, options.num_hidden_layers());
  fit_widths(folder, options, infer_widths);
  find_biases(folder, options, names);
  return options;
}

} // namespace rora
