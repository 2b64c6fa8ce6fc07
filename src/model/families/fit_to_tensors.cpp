#include "parameter_folder.h"

#include "../shape_text.h"

#include <rora/error.h>

#include <ATen/ATen.h>

#include <algorithm>
#include <initializer_list>
#include <string>
#include <vector>

namespace rora {
namespace {

using detail::kEmbedding;
using detail::kHead;
using detail::ParameterFolder;
using detail::shape_text;

std::string layer_prefix(int64_t layer) {
  return "model.layers." + std::to_string(layer) + ".";
}

/// The rows of a projection, 0 where the layer lacks it.
int64_t rows(const ParameterFolder& folder, const std::string& name) {
  if (!folder.contains(name)) {
    return 0;
  }
  const auto shape = folder.shape(name);
  if (shape.size() != 2) {
    throw FormatError(folder.file(name), folder.key(name) + " must have two dimensions, not " + shape_text(shape));
  }
  return shape[0];
}

int64_t heads(const ParameterFolder& folder, const std::string& name, int64_t head_dim) {
  const int64_t width = rows(folder, name);
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
  const int64_t head_dim = options.resolved_head_dim();
  for (int64_t layer = 0; layer < options.num_hidden_layers(); ++layer) {
    const std::string prefix = layer_prefix(layer);
    check_all_or_none(folder, prefix + "self_attn.", {"q_proj", "k_proj", "v_proj", "o_proj"});
    check_all_or_none(folder, prefix + "mlp.", {"gate_proj", "up_proj", "down_proj"});
    shapes.push_back(
        {heads(folder, prefix + "self_attn.q_proj.weight", head_dim),
         heads(folder, prefix + "self_attn.k_proj.weight", head_dim), rows(folder, prefix + "mlp.gate_proj.weight")});
  }
  return shapes;
}

/// Throws unless there are tensors of each of the layers, and of none behind them.
void check_layers(const ParameterFolder& folder, const std::vector<std::string>& names, int64_t layers) {
  const auto has_layer = [&](int64_t layer) {
    const std::string prefix = layer_prefix(layer);
    return std::any_of(names.begin(), names.end(), [&](const std::string& name) { return name.starts_with(prefix); });
  };
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
  if (!configured && !embedding) {
    throw FormatError(folder.path(), folder.key(kEmbedding) + " is missing, and tie_word_embeddings is false");
  }
  if (!(embedding && head)) {
    return true;
  }
  // Both keys are there: they are one tensor written twice, or the head was trained apart after all.
  return configured && at::equal(folder.tensor(kEmbedding), folder.tensor(kHead));
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

/// Biases that config.json does not speak of: of q and of gate, as those of the whole block.
void find_biases(DecoderOptions& options, const std::vector<std::string>& names) {
  const auto any = [&](const char* end) {
    return std::any_of(names.begin(), names.end(), [&](const std::string& name) { return name.ends_with(end); });
  };
  if (!options.bias().q && any("self_attn.q_proj.bias")) {
    options.attention_bias(true);
  }
  if (!options.bias().gate && any("mlp.gate_proj.bias")) {
    options.mlp_bias(true);
  }
}

} // namespace

DecoderOptions ModelFamily::fit_to_tensors(const DecoderOptions& configured, const ModelFolder& files) const {
  const ParameterFolder folder(files, *this);
  const std::vector<std::string> names = folder.names();
  DecoderOptions options = configured;
  options.tie_word_embeddings(is_tied(folder, options.tie_word_embeddings()));
  check_vocabulary(folder, options);
  check_layers(folder, names, options.num_hidden_layers());
  auto shapes = layer_shapes(folder, options);
  const LayerShape alike = options.layer_shape(0);
  if (std::any_of(shapes.begin(), shapes.end(), [&](const LayerShape& each) { return each != alike; })) {
    options.layer_shapes(std::move(shapes));
  }
  find_biases(options, names);
  return options;
}

} // namespace rora
