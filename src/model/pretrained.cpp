#include <rora/model/pretrained.h>

#include "../checkpoint/atomic_file.h"
#include "../checkpoint/json_object.h"

#include <rora/checkpoint/file.h>
#include <rora/checkpoint/model_folder.h>
#include <rora/error.h>
#include <rora/model/decoder.h>

#include <ATen/ATen.h>

#include <algorithm>
#include <initializer_list>
#include <map>
#include <set>
#include <sstream>

namespace rora {
namespace {

constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr const char* kHead = "lm_head.weight";

std::string layer_prefix(int64_t layer) {
  return "model.layers." + std::to_string(layer) + ".";
}

std::string shape_text(at::IntArrayRef shape) {
  std::ostringstream text;
  text << shape;
  return text.str();
}

/// Whether a tensor is a leftover that says nothing about the model: old checkpoints stored the rotary frequencies.
bool is_ignored(const std::string& name) {
  return name.ends_with(".rotary_emb.inv_freq");
}

/// The rows of a projection, 0 where the layer lacks it.
int64_t rows(const ModelFolder& folder, const std::string& name) {
  if (!folder.contains(name)) {
    return 0;
  }
  const auto shape = folder.shape(name);
  if (shape.size() != 2) {
    throw FormatError(folder.file(name), name + " must have two dimensions, not " + shape_text(shape));
  }
  return shape[0];
}

int64_t heads(const ModelFolder& folder, const std::string& name, int64_t head_dim) {
  const int64_t width = rows(folder, name);
  if (width % head_dim != 0) {
    throw FormatError(
        folder.file(name),
        name + " has " + std::to_string(width) + " rows, which head_dim " + std::to_string(head_dim) +
            " does not divide");
  }
  return width / head_dim;
}

/// A layer has all of its attention's or its MLP's projections, or none.
void check_all_or_none(const ModelFolder& folder, const std::string& module, std::initializer_list<const char*> names) {
  const auto is_there = [&](const char* name) { return folder.contains(module + name + ".weight"); };
  const char* const* missing = std::find_if_not(names.begin(), names.end(), is_there);
  if (missing != names.end() && std::any_of(names.begin(), names.end(), is_there)) {
    throw FormatError(folder.path(), "tensor " + module + *missing + ".weight is missing");
  }
}

bool has_layer(const ModelFolder& folder, int64_t layer) {
  const std::string prefix = layer_prefix(layer);
  return std::any_of(folder.names().begin(), folder.names().end(), [&](const std::string& name) {
    return name.starts_with(prefix) && !is_ignored(name);
  });
}

/// Every layer's widths, as its tensors have them.
std::vector<LayerShape> layer_shapes(const ModelFolder& folder, const DecoderOptions& options) {
  std::vector<LayerShape> shapes;
  const int64_t head_dim = options.resolved_head_dim();
  for (int64_t layer = 0; layer < options.num_hidden_layers(); ++layer) {
    const std::string prefix = layer_prefix(layer);
    if (!has_layer(folder, layer)) {
      throw FormatError(folder.path(), "all tensors of " + prefix.substr(0, prefix.size() - 1) + " are missing");
    }
    check_all_or_none(folder, prefix + "self_attn.", {"q_proj", "k_proj", "v_proj", "o_proj"});
    check_all_or_none(folder, prefix + "mlp.", {"gate_proj", "up_proj", "down_proj"});
    shapes.push_back(
        {heads(folder, prefix + "self_attn.q_proj.weight", head_dim),
         heads(folder, prefix + "self_attn.k_proj.weight", head_dim),
         rows(folder, prefix + "mlp.gate_proj.weight")});
  }
  return shapes;
}

/// config.json's options, corrected by what the folder's tensors show.
DecoderOptions infer_options(const ModelFolder& folder) {
  DecoderOptions options = read_model_config(folder.path());
  const bool embedding = folder.contains(kEmbedding);
  const bool head = folder.contains(kHead);
  if (!embedding && !head) {
    throw FormatError(folder.path(), std::string("neither ") + kEmbedding + " nor " + kHead + " is there");
  }
  if (!options.tie_word_embeddings() && !embedding) {
    throw FormatError(folder.path(), std::string(kEmbedding) + " is missing, and tie_word_embeddings is false");
  }
  if (!(embedding && head)) {
    options.tie_word_embeddings(true);
  } else if (options.tie_word_embeddings()) {
    // Both keys are there: they are one tensor written twice, or the head was trained apart after all.
    options.tie_word_embeddings(at::equal(folder.tensor(kEmbedding), folder.tensor(kHead)));
  }
  const std::string table = embedding ? kEmbedding : kHead;
  const auto shape = folder.shape(table);
  const std::vector<int64_t> expected{options.vocab_size(), options.hidden_size()};
  if (shape != expected) {
    throw FormatError(
        folder.file(table),
        table + " must be [vocab_size, hidden_size] " + shape_text(expected) + " of config.json, not " +
            shape_text(shape));
  }
  const int64_t layers = options.num_hidden_layers();
  if (has_layer(folder, layers) || !has_layer(folder, layers - 1)) {
    throw FormatError(
        folder.path() / "config.json",
        "num_hidden_layers is " + std::to_string(layers) + ", but there are tensors of " +
            (has_layer(folder, layers) ? "more" : "fewer") + " layers");
  }
  const LayerShape configured = options.layer_shape(0);
  auto shapes = layer_shapes(folder, options);
  bool alike = true;
  for (const LayerShape& each : shapes) {
    alike = alike && each == configured;
  }
  if (!alike) {
    options.layer_shapes(std::move(shapes));
  }
  for (const std::string& name : folder.names()) {
    options.attention_bias(options.attention_bias() || name.ends_with("self_attn.q_proj.bias"));
    options.mlp_bias(options.mlp_bias() || name.ends_with("mlp.gate_proj.bias"));
  }
  try {
    options.validate();
  } catch (const std::invalid_argument& error) {
    throw FormatError(folder.path(), error.what());
  }
  return options;
}

/// The tensor of `name`, in `dtype` where one is asked for. Mapped weights are copied only for that.
at::Tensor checked_tensor(
    const ModelFolder& folder,
    const std::string& name,
    at::IntArrayRef expected,
    std::optional<at::ScalarType> dtype) {
  at::Tensor tensor = folder.tensor(name);
  if (tensor.sizes() != expected) {
    throw FormatError(
        folder.file(name), name + " must have shape " + shape_text(expected) + ", not " + shape_text(tensor.sizes()));
  }
  if (!tensor.is_floating_point()) {
    throw FormatError(folder.file(name), name + " must be of floating point, not " + toString(tensor.scalar_type()));
  }
  if (dtype) {
    tensor = tensor.to(*dtype);
  }
  // One pass: a NaN or an infinity shows in the sum. Finite weights may overflow it: then each is looked at.
  if (!at::isfinite(tensor.sum(at::kFloat)).item<bool>() && !at::isfinite(tensor).all().item<bool>()) {
    throw FormatError(folder.file(name), name + " holds NaN or infinite values");
  }
  return tensor;
}

const std::map<std::string, at::ScalarType> kDtypes{
    {"float32", at::kFloat}, {"bfloat16", at::kBFloat16}, {"float16", at::kHalf}, {"float64", at::kDouble}};

std::string dtype_name(at::ScalarType dtype) {
  const auto found =
      std::find_if(kDtypes.begin(), kDtypes.end(), [&](const auto& named) { return named.second == dtype; });
  return found == kDtypes.end() ? "float32" : found->first;
}

/// The dtype of config.json, under its newer or older name.
std::optional<at::ScalarType> configured_dtype(const ModelFolder& folder) {
  const std::filesystem::path path = folder.path() / "config.json";
  const auto config = detail::JsonObject::parse(path, read_file(path));
  for (const char* field : {"dtype", "torch_dtype"}) {
    if (config.has(field)) {
      const auto found = kDtypes.find(config.string(field));
      if (found == kDtypes.end()) {
        config.fail(field, "'" + config.string(field) + "' is not supported");
      }
      return found->second;
    }
  }
  return std::nullopt;
}

/// The one dtype that a model of weights in several is brought to: config.json's, as in transformers, or that of the
/// embeddings. Nothing where all weights have the same.
std::optional<at::ScalarType> common_dtype(const ModelFolder& folder) {
  std::set<at::ScalarType> dtypes;
  for (const std::string& name : folder.names()) {
    if (!is_ignored(name) && at::isFloatingType(folder.dtype(name))) {
      dtypes.insert(folder.dtype(name));
    }
  }
  if (dtypes.size() < 2) {
    return std::nullopt;
  }
  const auto configured = configured_dtype(folder);
  return configured ? configured : folder.dtype(folder.contains(kEmbedding) ? kEmbedding : kHead);
}

/// The model's own tensors, without those of attached adapters.
NamedTensors base_tensors(const CausalLMImpl& model) {
  NamedTensors tensors;
  for (const auto& module : model.named_modules("", /*include_self=*/false)) {
    if (module.value()->as<Adapter>() != nullptr) {
      continue;
    }
    for (const auto& item : module.value()->named_parameters(/*recurse=*/false)) {
      tensors.emplace_back(module.key() + "." + item.key(), item.value().detach());
    }
  }
  return tensors;
}

} // namespace

CausalLM load_model(const std::filesystem::path& path, std::optional<at::ScalarType> dtype) {
  const ModelFolder folder(path);
  at::NoGradGuard no_grad;
  DecoderForCausalLM model(infer_options(folder));
  if (!dtype) {
    dtype = common_dtype(folder);
  }
  std::set<std::string> used;
  for (auto& item : model->named_parameters()) {
    std::string name = item.key();
    if (!folder.contains(name) && name == kEmbedding && model->options.tie_word_embeddings()) {
      name = kHead;
    }
    if (!folder.contains(name)) {
      throw FormatError(folder.path(), "tensor " + name + " is missing");
    }
    item.value().set_data(checked_tensor(folder, name, item.value().sizes(), dtype));
    used.insert(name);
  }
  if (model->options.tie_word_embeddings() && folder.contains(kEmbedding) && folder.contains(kHead)) {
    used.insert(kHead);
  }
  for (const std::string& name : folder.names()) {
    if (!used.count(name) && !is_ignored(name)) {
      throw FormatError(folder.file(name), "tensor " + name + " is not one of this model's");
    }
  }
  model->eval();
  return model;
}

void save_model(const CausalLM& model, const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) {
    throw FileError(folder, "cannot be made: " + error.message());
  }
  // The config is on the disk before the weights take their place, so that a full disk leaves the folder as it was.
  detail::AtomicFile config(folder / "config.json");
  config.write(model_config_json(model->options, dtype_name(model->dtype())));
  config.flush();
  save_model_tensors(folder, base_tensors(*model));
  config.commit();
}

} // namespace rora
