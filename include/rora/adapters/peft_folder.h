#pragma once

#include <rora/adapters/attach.h>

#include <filesystem>
#include <string>

namespace rora {

struct SaveAdapterOptions {
  /// The name of the adapters in `model`.
  TORCH_ARG(std::string, name) = kDefaultAdapter;
  /// Goes into `base_model_name_or_path`.
  TORCH_ARG(std::string, base_model);
  /// For readers that ignore `use_rslora`: the same scales written as α′/r with α′ = α·√r.
  TORCH_ARG(bool, portable) = false;
};

/// Writes `adapter_config.json` and `adapter_model.safetensors`, as PEFT does, into `folder`, which is made if need be.
/// The bytes depend on the options and the tensors alone. Throws `FileError`; a full disk leaves earlier files as they
/// were.
void save_adapter(
    const torch::nn::Module& model,
    const AdapterOptions& options,
    const std::filesystem::path& folder,
    const SaveAdapterOptions& save = {});

/// Reads `adapter_config.json`. Throws `FileError`, or `FormatError` naming the field: also for what the config asks for and
/// this library lacks.
AdapterOptions read_adapter_config(const std::filesystem::path& folder);

/// Attaches the adapters of a folder that PEFT or `save_adapter` wrote and returns its options. Every key must be there,
/// of the right shape and finite, and none besides, but for copies of adapted base weights, which must be the model's.
/// Throws `FileError` or `FormatError` naming the tensor, and `std::invalid_argument` for a name in use or merged
/// adapters; `model` is then as before.
AdapterOptions load_adapter(
    torch::nn::Module& model,
    const std::filesystem::path& folder,
    const std::string& name = kDefaultAdapter);

} // namespace rora
