#pragma once

#include <rora/adapters/adapter_options.h>

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace torch::nn {
class Module;
}

namespace rora {

inline constexpr const char* kDefaultAdapter = "default";

/// Attaches a fresh low-rank adapter to every projection of `model` that `options` mean, under `name`, makes it their
/// active one and returns the projections' names. Throws `std::invalid_argument`, before anything is attached, for a
/// target that matches nothing (listing what exists), a pattern that is no regular expression, options out of range, a
/// name in use, and a model with merged adapters.
std::vector<std::string> attach_adapters(
    torch::nn::Module& model,
    const AdapterOptions& options,
    const std::string& name = kDefaultAdapter);

/// Removes the adapters of that name everywhere. Throws `std::invalid_argument`, before any is removed, where there are
/// none or where they are merged.
void detach_adapters(torch::nn::Module& model, const std::string& name = kDefaultAdapter);

/// Makes `name` the active adapter of every projection that has it, and none that of the others; only active adapters
/// require gradients. Throws `std::invalid_argument`, before any is changed, where no projection has it or where
/// adapters are merged.
void activate_adapters(torch::nn::Module& model, const std::string& name);

/// Writes the active adapters into their weights (`Projection::merge`), and puts the base weights back, bit for bit.
void merge_adapters(torch::nn::Module& model);
void unmerge_adapters(torch::nn::Module& model);

/// The tensors of the adapters of that name: the module's name with `lora_A`, `lora_B` or `lora_magnitude_vector`, in the
/// order of the modules.
std::vector<std::pair<std::string, at::Tensor>> named_adapter_parameters(
    const torch::nn::Module& model,
    const std::string& name = kDefaultAdapter);

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

} // namespace rora
