#pragma once

#include <rora/model/causal_lm.h>

#include <filesystem>
#include <optional>

namespace rora {

/// The LLaMA of a Hugging Face folder, frozen. Weights stay mapped in the file's dtype unless `dtype` asks for another.
/// A file of several dtypes is brought to config.json's, as by transformers, or to the embeddings'.
/// Layer widths, biases, tying and vocabulary follow from the tensors present; config.json must agree with them on
/// hidden size, vocabulary and layer count. Throws `FileError` or `FormatError` (missing, unexpected or misshapen
/// tensors; NaN or infinite weights), naming file and tensor.
CausalLM load_model(const std::filesystem::path& folder, std::optional<at::ScalarType> dtype = std::nullopt);

/// Writes config.json and model.safetensors, in transformers' names, into `folder`, which is made if need be. Throws
/// `FileError`; a full disk leaves earlier files as they were.
void save_model(const CausalLM& model, const std::filesystem::path& folder);

} // namespace rora
