#pragma once

#include <rora/model/causal_lm.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

namespace rora {

struct GenerationOptions {
  TORCH_ARG(int64_t, max_new_tokens) = 128;
  TORCH_ARG(double, temperature) = 0.0; // 0 is greedy
  TORCH_ARG(int64_t, top_k) = 0; // 0 is all
  TORCH_ARG(double, top_p) = 1.0;
  TORCH_ARG(int64_t, num_beams) = 1; // over 1: beam search, which does not sample
  TORCH_ARG(double, length_penalty) = 1.0; // a beam's score is its log-likelihood / length^length_penalty
  TORCH_ARG(std::vector<int64_t>, stop_token_ids); // empty: the model's eos_token_id
  TORCH_ARG(uint64_t, seed) = 0; // of the sampling
};

/// The prompts' continuations, without the prompts; each ends with the stop token that ended it, if one did. Prompts of
/// unequal length are padded on the left. Throws `c10::ValueError` for an empty prompt, an id outside the
/// vocabulary and options out of range, and `std::runtime_error` for logits that are not finite. `on_token(row, id)` is
/// called as tokens are chosen (not by beam search).
///
/// Beam search is that of transformers with `early_stopping=False`: a prompt is done once as many beams have ended as
/// run and none that runs scores better than the worst of them.
std::vector<std::vector<int64_t>> generate(
    CausalLM model, const std::vector<std::vector<int64_t>>& prompts, const GenerationOptions& options = {},
    const std::function<void(int64_t, int64_t)>& on_token = nullptr);

/// The tokens that end a text of this model: `eos_token_id` of generation_config.json or, where that names none, of
/// config.json, as in transformers; negative ids are none. Throws `FileError`, or `FormatError` naming the field.
std::vector<int64_t> read_stop_token_ids(const std::filesystem::path& folder);

/// The fields of the folder's generation_config.json by which transformers would generate something else than
/// `generate`, whatever its options: penalties, tokens that are forced or forbidden, texts that stop it. Throws
/// `FileError`, or `FormatError` naming the field.
std::vector<std::string> fields_not_followed(const std::filesystem::path& folder);

} // namespace rora
