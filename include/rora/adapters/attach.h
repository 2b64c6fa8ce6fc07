#pragma once

#include <rora/adapters/adapter_options.h>
#include <rora/core/initializer.h>

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace torch::nn {
class Module;
}

namespace rora {

struct DecoderOptions;

inline constexpr const char* kDefaultAdapter = "default";

/// The names of the projections of `model` that `options` mean; of its attentions where the kind is theirs. Throws
/// `c10::ValueError` for a target that matches nothing (listing what exists) or a `torch::nn::Linear`, whose forward
/// no adapter can take part in, for a pattern that is no regular expression, and for options out of range.
std::vector<std::string> target_modules(const torch::nn::Module& model, const AdapterOptions& options);

/// Attaches a fresh adapter to every module that `target_modules` names, under `name`, makes it their active one and
/// returns their names. `statistics` by module are what an initializer reads (`capture_statistics`). One that chooses
/// ranks has them, with their alphas, saved as rank_pattern and alpha_pattern; a module to which it gives rank 0 has no
/// adapter. Throws `c10::ValueError`, before anything is attached, as `target_modules` does, for a name in use, for a
/// model with merged adapters, and for statistics that the initializer needs and that are not there.
std::vector<std::string> attach_adapters(
    torch::nn::Module& model, const AdapterOptions& options, const std::string& name = kDefaultAdapter,
    const std::map<std::string, WeightStatistics>& statistics = {});

/// Removes the adapters of that name everywhere, those of whole blocks (`ModuleAdapter`) too; a head that they untied
/// is tied again once it and the embedding have none. Throws `c10::ValueError`, before any is removed, where there are
/// none or where they are merged.
void detach_adapters(torch::nn::Module& model, const std::string& name = kDefaultAdapter);

/// Makes `name` the active adapter of every projection and block that has it, and none that of the others; only active
/// adapters require gradients. Throws `c10::ValueError`, before any is changed, where nothing has it or where adapters
/// are merged.
void activate_adapters(torch::nn::Module& model, const std::string& name);

/// Writes the active adapters into their weights (`Projection::merge`), and puts the base weights back, bit for bit.
/// Throws `c10::ValueError`, before any is merged, for an adapter that no weight can express.
void merge_adapters(torch::nn::Module& model);

/// Throws as `merge_adapters` does: a bottleneck, a prefix and whatever else is of a whole block are never merged.
void check_mergeable(const torch::nn::Module& model);

void unmerge_adapters(torch::nn::Module& model);

/// The trained tensors of the adapters of that name: the module's name with `lora_A`, `lora_B` … of low-rank ones, in
/// the order of the modules.
std::vector<std::pair<std::string, at::Tensor>> named_adapter_parameters(
    const torch::nn::Module& model, const std::string& name = kDefaultAdapter);

/// The same tensors alone, for an optimiser.
std::vector<at::Tensor> adapter_parameters(const torch::nn::Module& model, const std::string& name = kDefaultAdapter);

struct ParameterCounts {
  int64_t trainable = 0;
  int64_t total = 0; ///< trainable ones included
  /// In percent: 100·trainable/total.
  double share() const {
    return total == 0 ? 0.0 : 100.0 * static_cast<double>(trainable) / static_cast<double>(total);
  }
};

/// Counts each parameter once, as those that require gradients and all.
ParameterCounts count_parameters(const torch::nn::Module& model);

/// What `count_parameters` counts once `adapters` are attached to a model of that configuration. No weight is read, and
/// none of the memory that the model would take is written. Throws as `target_modules` does.
ParameterCounts count_parameters(const DecoderOptions& model, const AdapterOptions& adapters);

} // namespace rora
