#include <rora/adapters/peft_folder.h>

#include "../checkpoint/atomic_file.h"
#include "adapter_config.h"
#include "attachment.h"

#include <rora/checkpoint/file.h>
#include <rora/checkpoint/safetensors.h>
#include <rora/error.h>

#include <cmath>
#include <map>
#include <set>
#include <sstream>
#include <stdexcept>

namespace rora {
namespace {

constexpr const char* kConfigFile = "adapter_config.json";
constexpr const char* kWeightsFile = "adapter_model.safetensors";

/// PEFT's key of an adapter's tensor: its prefix, and ".weight" after all but the magnitude.
std::string peft_key(const std::string& name) {
  const bool magnitude = name.ends_with("lora_magnitude_vector");
  return "base_model.model." + name + (magnitude ? "" : ".weight");
}

/// The same scales under α/r: α′ = α·√r of each module, those that differ from the first by their whole names.
AdapterOptions portable_options(const torch::nn::Module& model, const AdapterOptions& options, const std::string& name) {
  if (options.low_rank().scaling() == Scaling::kStandard) {
    return options;
  }
  const auto standard_alpha = [](const LowRankOptions& low_rank) {
    return low_rank.alpha() * std::sqrt(static_cast<double>(low_rank.rank()));
  };
  const double alpha = standard_alpha(options.low_rank());
  AdapterOptions portable = options;
  portable.low_rank(LowRankOptions(options.low_rank()).alpha(alpha).scaling(Scaling::kStandard));
  ModulePattern<double> pattern;
  for (const auto& [parameter, tensor] : named_adapter_parameters(model, name)) {
    if (parameter.ends_with(".lora_A")) {
      const std::string module = parameter.substr(0, parameter.size() - std::string(".lora_A").size());
      const double own = standard_alpha(options.for_module(module));
      if (own != alpha) {
        pattern.emplace_back(module, own);
      }
    }
  }
  return portable.alpha_pattern(pattern);
}

/// PEFT takes layers_to_transform only beside a list of target modules: "all-linear" becomes the list that it means.
AdapterOptions with_listed_targets(const torch::nn::Module& model, AdapterOptions options, const std::string& name) {
  if (options.target_modules().all_linear && !options.layers_to_transform().empty()) {
    std::set<std::string> kinds;
    for (const auto& [parameter, tensor] : named_adapter_parameters(model, name)) {
      const std::string module = parameter.substr(0, parameter.rfind('.'));
      kinds.insert(module.substr(module.rfind('.') + 1));
    }
    options.target_modules(std::vector<std::string>(kinds.begin(), kinds.end()));
  }
  return options;
}

std::string shape_text(at::IntArrayRef shape) {
  std::ostringstream text;
  text << shape;
  return text.str();
}

/// An adapter's tensors by their keys in `LowRankAdapter`, with the shapes that its options give them.
std::vector<std::pair<std::string, std::vector<int64_t>>> adapter_shapes(const detail::Attachment& attachment) {
  const int64_t in = attachment.projection->in_features();
  const int64_t out = attachment.projection->out_features();
  const int64_t rank = attachment.options.rank();
  std::vector<std::pair<std::string, std::vector<int64_t>>> shapes{{"lora_A", {rank, in}}, {"lora_B", {out, rank}}};
  if (attachment.options.dora()) {
    shapes.push_back({"lora_magnitude_vector", {out}});
  }
  return shapes;
}

void check_tensor(const SafetensorsFile& file, const std::string& key, const std::vector<int64_t>& shape) {
  if (!file.contains(key)) {
    throw FormatError(file.path(), "tensor " + key + " is missing");
  }
  if (const auto found = file.shape(key); found != shape) {
    throw FormatError(file.path(), key + " must have shape " + shape_text(shape) + ", not " + shape_text(found));
  }
  const at::Tensor stored = file.tensor(key);
  if (!stored.is_floating_point() || !at::isfinite(stored).all().item<bool>()) {
    throw FormatError(file.path(), key + " must hold finite numbers of floating point");
  }
}

/// PEFT stores the base weight of an adapted head, too, and loads it in place of the model's: it must be the same.
void check_base_weight(const SafetensorsFile& file, const std::string& key, const ProjectionImpl& projection) {
  const at::Tensor base = projection.base().dense();
  if (!at::equal(file.tensor(key).to(base.options()), base)) {
    throw FormatError(file.path(), key + " is not the base model's weight: the adapter is of another model");
  }
}

/// Checks every tensor of the file against the plan before any adapter is made: a size in adapter_config.json may lie.
void check_tensors(const std::vector<detail::Attachment>& plan, const SafetensorsFile& file) {
  std::set<std::string> known;
  for (const detail::Attachment& each : plan) {
    for (const auto& [name, shape] : adapter_shapes(each)) {
      const std::string key = peft_key(each.module + "." + name);
      check_tensor(file, key, shape);
      known.insert(key);
    }
    if (const std::string key = peft_key(each.module + ".base_layer"); file.contains(key)) {
      check_base_weight(file, key, *each.projection);
      known.insert(key);
    }
  }
  for (const std::string& key : file.names()) {
    if (!known.count(key)) {
      throw FormatError(file.path(), "tensor " + key + " belongs to no module that " + kConfigFile + " targets");
    }
  }
}

void copy_tensors(const std::vector<detail::Attachment>& plan, const SafetensorsFile& file) {
  at::NoGradGuard no_grad;
  for (const detail::Attachment& each : plan) {
    for (auto& item : each.adapter->named_parameters()) {
      item.value().copy_(file.tensor(peft_key(each.module + "." + item.key())));
    }
  }
}

} // namespace

void save_adapter(
    const torch::nn::Module& model,
    const AdapterOptions& options,
    const std::filesystem::path& folder,
    const SaveAdapterOptions& save) {
  std::map<std::string, at::Tensor> sorted;
  for (const auto& [parameter, tensor] : named_adapter_parameters(model, save.name())) {
    sorted.emplace(peft_key(parameter), tensor.detach().to(at::kFloat));
  }
  AdapterOptions written = with_listed_targets(model, options, save.name());
  if (save.portable()) {
    written = portable_options(model, written, save.name());
  }
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) {
    throw FileError(folder, "cannot be made: " + error.message());
  }
  // The config is on the disk before the weights take their place, so that a full disk leaves the folder as it was.
  detail::AtomicFile config(folder / kConfigFile);
  config.write(detail::adapter_config_json(written, save.base_model()));
  config.flush();
  save_safetensors(folder / kWeightsFile, NamedTensors(sorted.begin(), sorted.end()));
  config.commit();
}

AdapterOptions read_adapter_config(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / kConfigFile;
  return detail::parse_adapter_config(path, read_file(path));
}

AdapterOptions load_adapter(torch::nn::Module& model, const std::filesystem::path& folder, const std::string& name) {
  detail::check_attachable(model, name);
  const AdapterOptions options = read_adapter_config(folder);
  const SafetensorsFile file(folder / kWeightsFile);
  std::vector<detail::Attachment> plan;
  try {
    plan = detail::plan_attachments(model, options);
  } catch (const std::invalid_argument& error) {
    throw FormatError(folder / kConfigFile, error.what());
  }
  check_tensors(plan, file);
  detail::make_adapters(plan);
  copy_tensors(plan, file);
  detail::attach(model, plan, name);
  return options;
}

} // namespace rora
