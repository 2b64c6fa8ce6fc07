#pragma once

#include <rora/adapters/attach.h>

#include <filesystem>
#include <optional>
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
///
/// The adapters say themselves what they are: they know the `AdapterOptions` that they were attached with, and a rank
/// or alpha of their own that differs goes into `rank_pattern` or `alpha_pattern` by the module's name. Adapters that
/// were put into their projections by hand have their modules' whole names as `target_modules`. An adapter that rewrote
/// its base is saved with rank 2r at the same scale, so that it does the same on the base as it was loaded. The bytes
/// depend on that and on the tensors alone.
///
/// Throws `c10::ValueError` where there is no adapter of that name, where one of it is of a whole block
/// (`ModuleAdapter`) and no kind attached it there, or where those of it differ in what a folder says once: kind,
/// scaling, DoRA, dropout. Throws `FileError`; a full disk leaves earlier files as they were.
void save_adapter(
    const torch::nn::Module& model, const std::filesystem::path& folder, const SaveAdapterOptions& save = {});

/// Reads `adapter_config.json`. Throws `FileError`, or `FormatError` naming the field: also for what the config asks
/// for and this library lacks.
AdapterOptions read_adapter_config(const std::filesystem::path& folder);

struct LoadAdapterOptions {
  /// The name of the adapters in `model`.
  TORCH_ARG(std::string, name) = kDefaultAdapter;
  /// In place of the folder's dropout, which matters only for further training.
  TORCH_ARG(std::optional<double>, dropout) = std::nullopt;
  /// What dropout falls on in DoRA, which folders do not say.
  TORCH_ARG(ops::DoraDropout, dora_dropout) = ops::DoraDropout::kInput;
};

/// Attaches the adapters of a folder that PEFT or `save_adapter` wrote and returns their options. Every key must be
/// there, of the right shape and finite, and none besides, but for copies of adapted base weights, which must be the
/// model's. Throws `FileError` or `FormatError` naming the tensor, and `c10::ValueError` for a name in use, merged
/// adapters, and for a dropout out of range or of a kind that has none; `model` is then as before.
AdapterOptions load_adapter(
    torch::nn::Module& model, const std::filesystem::path& folder, const LoadAdapterOptions& load);
AdapterOptions load_adapter(
    torch::nn::Module& model, const std::filesystem::path& folder, const std::string& name = kDefaultAdapter);

} // namespace rora
