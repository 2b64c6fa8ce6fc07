#pragma once

#include <rora/text/tokenizer.h>

#include <filesystem>
#include <memory>

namespace rora::detail {

/// Reads `folder`/tokenizer.model, and from tokenizer_config.json and added_tokens.json, where the folder has them,
/// what the model does not say: add_bos_token (default true), add_eos_token, add_prefix_space, legacy and the added
/// tokens.
///
/// Added tokens and the model's control symbols are found in the text before it is encoded, as the tokenizer.json that
/// belongs to such a model has them. What lies between is encoded by itself, each part with the model's space before
/// it; with `legacy` false the first part alone. The ids begin and end with the beginning-of-text token alone.
std::unique_ptr<Tokenizer> load_sentencepiece_tokenizer(const std::filesystem::path& folder);

} // namespace rora::detail
