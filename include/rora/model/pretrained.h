#pragma once

#include <rora/model/causal_lm.h>

#include <torch/arg.h>

#include <filesystem>
#include <optional>

namespace rora {

struct LoadModelOptions {
  /// What weights are brought to; without one they stay as they are stored.
  TORCH_ARG(std::optional<at::ScalarType>, dtype) = std::nullopt;
  /// Believe the tensors where layers that are all alike have other widths than config.json says.
  TORCH_ARG(bool, infer_widths) = false;
  /// Weights stay mapped where no other dtype asks for a copy; if not, they are read into memory, and what becomes of
  /// the files later is no matter.
  TORCH_ARG(bool, mapped) = true;
};

/// The model of a Hugging Face folder, frozen, of the family that config.json's `model_type` names. Weights stay
/// in the file's dtype unless another is asked for. A file of several dtypes is brought to config.json's, as by
/// transformers, or to the embeddings'. Biases, tying and the widths of layers that differ (pruned models) follow from
/// the tensors; config.json must agree with them on hidden size, vocabulary, layer count and the widths of layers that
/// are alike. Throws `FileError` or `FormatError` (a family that is not registered; missing, unexpected or misshapen
/// tensors; NaN or infinite weights), naming file and tensor.
CausalLM load_model(const std::filesystem::path& folder, const LoadModelOptions& options);
CausalLM load_model(const std::filesystem::path& folder, std::optional<at::ScalarType> dtype = std::nullopt);

/// Writes config.json and model.safetensors, in transformers' names, into `folder`, which is made if need be: the
/// weights that the model computes with, merged adapters in them and inactive ones left out. A weight that is not
/// dense is written dequantised, in the model's dtype.
///
/// Throws `c10::ValueError`, before anything is written, for a model with an active adapter that is not merged, and
/// for options that the family's config.json does not give again; `FileError`, where a full disk leaves earlier files
/// as they were.
void save_model(const CausalLMImpl& model, const std::filesystem::path& folder);

} // namespace rora
