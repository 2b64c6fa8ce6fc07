#include <rora/adapters/low_rank_folder.h>

#include "../checkpoint/json_object.h"
#include "../checkpoint/other_forms.h"
#include "../checkpoint/quote.h"
#include "adapter_config.h"
#include "adapter_files.h"
#include "attachment.h"
#include "change_error.h"
#include "kinds/adalora.h"
#include "kinds/low_rank.h"

#include <rora/checkpoint/file.h>
#include <rora/error.h>

#include <ATen/ATen.h>

#include <algorithm>
#include <set>

namespace rora {
namespace {

/// The ends of the names of an adapter's tensors, A first.
using TensorEnds = std::vector<std::string>;

const std::string kA = ".lora_A.weight";
const std::string kB = ".lora_B.weight";
const std::string kMagnitude = ".lora_magnitude_vector";
const TensorEnds kLowRankEnds{kA, kB, kMagnitude};
const TensorEnds kAdaLoraEnds{".lora_A", ".lora_B", ".lora_E"};
const std::string kBaseWeight = ".base_layer.weight";
const std::string kTokenRows = ".token_adapter.trainable_tokens_delta";

/// `name` without `end`, or nothing where it ends otherwise.
std::optional<std::string> before(const std::string& name, const std::string& end) {
  return name.size() > end.size() && name.ends_with(end)
      ? std::optional<std::string>(name.substr(0, name.size() - end.size()))
      : std::nullopt;
}

/// Whether one of the modules in the path `name` has that name, whole or behind a dot.
bool holds_part(const std::string& name, const std::string& part) {
  return ("." + name + ".").find("." + part + ".") != std::string::npos;
}

/// Which tensors a file has, by module.
struct Contents {
  std::set<std::string> modules; ///< that have a tensor of a low-rank adapter
  std::map<std::string, std::string> others; ///< the other keys with their modules
};

Contents contents_of(const SafetensorsFile& file, const AdapterOptions& options, const TensorEnds& ends) {
  const std::string prefix = detail::kBasePrefix;
  Contents contents;
  for (const std::string& key : file.names()) {
    const std::string name = key.starts_with(prefix) ? key.substr(prefix.size()) : "";
    std::optional<std::string> module;
    for (const std::string& end : ends) {
      module = module ? module : before(name, end);
    }
    if (module) {
      contents.modules.insert(*module);
      continue;
    }
    module = before(name, kBaseWeight);
    if (!module && !options.trainable_token_indices().empty()) {
      module = before(name, kTokenRows);
    }
    if (!module && !options.modules_to_save().empty()) {
      module = before(name, ".weight");
    }
    if (!module) {
      detail::fail_for_tensor_beyond(file, key);
    }
    contents.others.emplace(key, *module);
  }
  return contents;
}

/// Throws where the config asks for weights beside the adapters that the file lacks, or the file holds some that the
/// config does not name. Embedding and head stand for each other: they may be tied.
void check_others(const SafetensorsFile& file, const Contents& contents, const AdapterOptions& options) {
  const auto named = [&](const std::string& module) {
    std::vector<std::string> names = options.modules_to_save();
    names.insert(names.end(), {"embed_tokens", "lm_head"});
    return std::any_of(names.begin(), names.end(), [&](const std::string& name) { return holds_part(module, name); });
  };
  for (const auto& [key, module] : contents.others) {
    const bool of_adapted = key.ends_with(kBaseWeight) && contents.modules.count(module) > 0;
    const bool of_tokens = key.ends_with(kTokenRows);
    if (!of_adapted && !of_tokens && (key.ends_with(kBaseWeight) || !named(module))) {
      detail::fail_for_tensor_beyond(file, key);
    }
  }
  const auto require = [&](const std::string& field, const std::string& name) {
    const bool found = std::any_of(contents.others.begin(), contents.others.end(), [&](const auto& other) {
      return holds_part(other.second, name);
    });
    if (!found) {
      throw FormatError(file.path(), "holds no tensor of " + detail::quote(name) + ", which " + field + " names");
    }
  };
  for (const std::string& name : options.modules_to_save()) {
    require("modules_to_save", name);
  }
  for (const auto& [name, tokens] : options.trainable_token_indices()) {
    require("trainable_token_indices", name);
  }
}

/// Throws where the file's modules are not those that the config targets, as far as they show it.
void check_targets(
    const SafetensorsFile& file, const Contents& contents, const AdapterOptions& options, const TensorEnds& ends,
    const std::filesystem::path& config) {
  std::set<std::string> existing = contents.modules;
  for (const auto& [key, module] : contents.others) {
    existing.insert(module);
  }
  std::vector<std::string> targeted;
  try {
    targeted = detail::targeted_in_folder(options, {existing.begin(), existing.end()});
  } catch (const c10::ValueError& error) {
    throw FormatError(config, std::string(error.what_without_backtrace()) + " with tensors in " + detail::kWeightsFile);
  }
  for (const std::string& module : contents.modules) {
    if (std::find(targeted.begin(), targeted.end(), module) == targeted.end()) {
      detail::fail_for_tensor_beyond(file, detail::kBasePrefix + module + ends.front());
    }
  }
}

/// In fp32, where they are not in fp64.
at::Tensor numbers(const SafetensorsFile& file, const std::string& key, const std::vector<int64_t>& shape) {
  detail::check_adapter_tensor(file, key, shape);
  const at::Tensor stored = file.tensor(key);
  return stored.scalar_type() == at::kDouble ? stored : stored.to(at::kFloat);
}

/// The size of the factor at `key` that its module's rank does not say.
int64_t features(const SafetensorsFile& file, const std::string& key, size_t dimension) {
  if (!file.contains(key)) {
    throw FormatError(file.path(), "tensor " + key + " is missing");
  }
  const std::vector<int64_t> shape = file.shape(key);
  if (shape.size() != 2 || shape[dimension] < 1) {
    throw FormatError(file.path(), key + " is no matrix");
  }
  return shape[dimension];
}

LowRankChange read_change(const SafetensorsFile& file, const std::string& module, const LowRankOptions& options) {
  const std::string name = detail::kBasePrefix + module;
  const int64_t in = features(file, name + kA, 1);
  const int64_t out = features(file, name + kB, 0);
  LowRankChange change;
  change.a = numbers(file, name + kA, {options.rank(), in});
  change.b = numbers(file, name + kB, {out, options.rank()});
  change.scale = scaling_factor(options.scaling(), options.alpha(), options.rank());
  if (options.dora()) {
    change.magnitude = numbers(file, name + kMagnitude, {out});
  } else if (file.contains(name + kMagnitude)) {
    throw FormatError(file.path(), name + kMagnitude + " is there, and use_dora is not set");
  }
  return change;
}

/// B·diag(E)·A as B·A′. A module that has no rank left gets one of zeros: folders of LoRA have none without.
LowRankChange read_change(const SafetensorsFile& file, const std::string& module, const detail::AdaLoraKind& kind) {
  const std::string a = detail::kBasePrefix + module + ".lora_A";
  const std::string b = detail::kBasePrefix + module + ".lora_B";
  const std::string e = detail::kBasePrefix + module + ".lora_E";
  const int64_t in = features(file, a, 1);
  const int64_t out = features(file, b, 0);
  const int64_t rank = kind.rank(module);
  LowRankChange change;
  change.a = numbers(file, e, {rank, 1}).to(at::kDouble) * numbers(file, a, {rank, in}).to(at::kDouble);
  change.b = numbers(file, b, {out, rank});
  change.scale = detail::adalora_scale(kind.options());
  return rank > 0 ? change : detail::padded(change, 1);
}

/// Makes the folder that of low-rank adapters: its options, and what its config says.
void leave_adalora(LowRankFolder& read, const detail::AdaLoraKind& kind) {
  read.options.kind(nullptr).low_rank(LowRankOptions()
                                          .rank(kind.options().init_r())
                                          .alpha(kind.options().alpha())
                                          .scaling(Scaling::kStandard)
                                          .dropout(kind.options().dropout()));
  JsonFields fields;
  detail::json_of(fields) = detail::json_of(JsonObject::parse(read.path / detail::kConfigFile, read.config));
  JsonFields own;
  kind.write(own);
  for (const auto& [field, value] : detail::json_of(own).items()) {
    fields.remove(field);
  }
  detail::LowRankKind(read.options.low_rank()).write(fields);
  fields.set("peft_type", "LORA");
  read.config = fields.text();
}

} // namespace

LowRankFolder read_low_rank_folder(const std::filesystem::path& folder) {
  detail::require_folder(folder);
  const std::filesystem::path config = folder / detail::kConfigFile;
  LowRankFolder read;
  read.path = folder;
  read.config = read_file(config);
  read.options = detail::parse_adapter_config(config, read.config);
  const JsonObject fields = JsonObject::parse(config, read.config);
  const auto* const adalora = dynamic_cast<const detail::AdaLoraKind*>(read.options.kind().get());
  if (read.options.kind() && adalora == nullptr) {
    fields.fail(
        "peft_type", "must be LORA or ADALORA, not " + fields.string("peft_type") + ", which has no factors A and B");
  }
  read.base_model = fields.string("base_model_name_or_path", "");
  const SafetensorsFile file = detail::open_adapter_weights(folder, /*mapped=*/false);
  const TensorEnds& ends = adalora != nullptr ? kAdaLoraEnds : kLowRankEnds;
  const Contents contents = contents_of(file, read.options, ends);
  if (contents.modules.empty()) {
    throw FormatError(file.path(), "holds no low-rank factors");
  }
  check_others(file, contents, read.options);
  check_targets(file, contents, read.options, ends, config);
  if (adalora != nullptr) {
    try {
      adalora->check_modules({contents.modules.begin(), contents.modules.end()});
    } catch (const c10::ValueError& error) {
      throw FormatError(config, error.what_without_backtrace());
    }
  }
  for (const std::string& module : contents.modules) {
    read.modules.emplace(
        module,
        adalora != nullptr ? read_change(file, module, *adalora)
                           : read_change(file, module, read.options.for_module(module)));
  }
  for (const auto& [key, module] : contents.others) {
    detail::check_adapter_tensor(file, key, file.shape(key));
    read.others.emplace(key, file.tensor(key));
  }
  if (adalora != nullptr) {
    const auto kind = read.options.kind(); // which goes from the options meanwhile
    leave_adalora(read, *adalora);
  }
  return read;
}

} // namespace rora
