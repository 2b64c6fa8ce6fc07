#include <rora/model/pretrained.h>

#include "../checkpoint/atomic_file.h"
#include "all_finite.h"
#include "families/families.h"
#include "families/parameter_folder.h"
#include "shape_text.h"

#include <rora/checkpoint/json_object.h>
#include <rora/core/projection.h>
#include <rora/error.h>
#include <rora/model/decoder_layer.h>

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace rora {
namespace {

using detail::kEmbedding;
using detail::kHead;
using detail::ParameterFolder;
using detail::shape_text;

/// The tensor of the parameter of that name, in `dtype` where one is asked for. Mapped weights are copied only for
/// that.
at::Tensor checked_tensor(
    const ParameterFolder& folder, const std::string& name, at::IntArrayRef expected,
    std::optional<at::ScalarType> dtype) {
  at::Tensor tensor = folder.tensor(name);
  const auto fail = [&](const std::string& what) { throw FormatError(folder.file(name), folder.key(name) + what); };
  if (tensor.sizes() != expected) {
    fail(" must have shape " + shape_text(expected) + ", not " + shape_text(tensor.sizes()));
  }
  if (!tensor.is_floating_point()) {
    fail(std::string(" must be of floating point, not ") + toString(tensor.scalar_type()));
  }
  if (dtype) {
    tensor = tensor.to(*dtype);
  }
  if (!detail::all_finite(tensor)) {
    fail(" holds NaN or infinite values");
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
std::optional<at::ScalarType> configured_dtype(const std::filesystem::path& folder) {
  const JsonObject config = JsonObject::read(folder / "config.json");
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
std::optional<at::ScalarType> common_dtype(const ModelFolder& files, const ParameterFolder& folder) {
  std::set<at::ScalarType> dtypes;
  for (const std::string& key : folder.keys()) {
    if (at::isFloatingType(files.dtype(key))) {
      dtypes.insert(files.dtype(key));
    }
  }
  if (dtypes.size() < 2) {
    return std::nullopt;
  }
  const auto configured = configured_dtype(folder.path());
  return configured ? configured : folder.dtype(folder.contains(kEmbedding) ? kEmbedding : kHead);
}

/// Gives the model the folder's tensors: each of its parameters one, and none left over.
void load_parameters(
    CausalLMImpl& model, const ModelFolder& files, const ModelFamily& family, std::optional<at::ScalarType> dtype) {
  const ParameterFolder folder(files, family);
  if (!dtype) {
    dtype = common_dtype(files, folder);
  }
  const bool tied = model.options.tie_word_embeddings();
  std::set<std::string> used;
  for (auto& item : model.named_parameters()) {
    std::string name = item.key();
    if (!folder.contains(name) && name == kEmbedding && tied) {
      name = kHead;
    }
    if (!folder.contains(name)) {
      throw FormatError(folder.path(), "tensor " + folder.key(name) + " is missing");
    }
    item.value().set_data(checked_tensor(folder, name, item.value().sizes(), dtype));
    used.insert(folder.key(name));
  }
  if (tied && folder.contains(kEmbedding) && folder.contains(kHead)) {
    used.insert(folder.key(kHead));
  }
  for (const std::string& key : folder.keys()) {
    if (!used.count(key)) {
      throw FormatError(files.file(key), "tensor " + key + " is not one of this model's");
    }
  }
}

/// The name of a module's adapter that takes part in what it computes, or the empty one.
template <class Holder>
std::string active_adapter(const torch::nn::Module& module) {
  const auto* holder = module.as<Holder>();
  return holder != nullptr && holder->active_adapter() != nullptr ? holder->active_name() : std::string();
}

/// Throws where an adapter changes what the model computes, but not the weights that would be written.
void check_no_active_adapter(const CausalLMImpl& model) {
  for (const auto& item : model.named_modules("", /*include_self=*/false)) {
    const torch::nn::Module& module = *item.value();
    const std::string of_weight = active_adapter<ProjectionImpl>(module);
    TORCH_CHECK_VALUE(
        of_weight.empty(), "the adapter '", of_weight, "' of ", item.key(), " is active and not merged, and a model's ",
        "folder has no place for it: merge_adapters writes it into the weights, detach_adapters leaves it out, ",
        "save_adapter saves it alone");
    const std::string of_block = active_adapter<AttentionImpl>(module) + active_adapter<MLPImpl>(module);
    TORCH_CHECK_VALUE(
        of_block.empty(), "the adapter '", of_block, "' of ", item.key(), " is active, and no weight of a model's ",
        "folder can do what it does: detach it from ", item.key(), " to leave it out");
  }
}

/// Whether a module of that name lies in one of `others` or is one.
bool is_within(const std::string& name, const std::vector<std::string>& others) {
  return std::any_of(others.begin(), others.end(), [&](const std::string& other) {
    return name == other || name.starts_with(other + ".");
  });
}

/// The model's own tensors, without those of attached adapters. Weights that are stored another way are dequantised.
NamedTensors base_tensors(const CausalLMImpl& model, const ModelFamily& family) {
  NamedTensors tensors;
  std::vector<std::string> left_out; // adapters, and the buffers of weights that are not dense
  const auto add = [&](const std::string& name, const at::Tensor& tensor) {
    tensors.emplace_back(family.stored_name(name), tensor.detach());
  };
  for (const auto& module : model.named_modules("", /*include_self=*/false)) {
    if (module.value()->as<Adapter>() != nullptr || module.value()->as<ModuleAdapter>() != nullptr ||
        module.value()->as<ops::LinearWeight>() != nullptr) {
      left_out.push_back(module.key());
    }
    if (is_within(module.key(), left_out)) {
      continue;
    }
    if (const auto* projection = module.value()->as<ProjectionImpl>();
        projection != nullptr && !projection->weight.defined()) {
      add(module.key() + ".weight", projection->base().dense().to(model.dtype()));
    }
    for (const auto& item : module.value()->named_parameters(/*recurse=*/false)) {
      add(module.key() + "." + item.key(), item.value());
    }
  }
  return tensors;
}

} // namespace

CausalLM load_model(const std::filesystem::path& path, const LoadModelOptions& load) {
  const ModelFolder files(path, load.mapped());
  DecoderOptions options = read_model_config(path);
  const ModelFamily& family = family_of(options.model_type());
  options = family.fit_to_tensors(options, files, load.infer_widths());
  try {
    options.validate();
  } catch (const c10::ValueError& error) {
    throw FormatError(files.path(), error.what_without_backtrace());
  }
  at::NoGradGuard no_grad;
  CausalLM model = family.make(options);
  load_parameters(*model, files, family, load.dtype());
  model->eval();
  return model;
}

CausalLM load_model(const std::filesystem::path& path, std::optional<at::ScalarType> dtype) {
  return load_model(path, LoadModelOptions().dtype(dtype));
}

void save_model(const CausalLMImpl& model, const std::filesystem::path& folder) {
  check_no_active_adapter(model);
  const std::string json = model_config_json(model.options, dtype_name(model.dtype()));
  detail::check_reads_back(model.options, folder / "config.json", json);
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) {
    throw FileError(folder, "cannot be made: " + error.message());
  }
  // The config is on the disk before the weights take their place, so that a full disk leaves the folder as it was.
  detail::AtomicFile config(folder / "config.json");
  config.write(json);
  config.flush();
  save_model_tensors(folder, base_tensors(model, family_of(model.options.model_type())));
  config.commit();
}

} // namespace rora
