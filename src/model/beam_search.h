#pragma once

#include <rora/model/generation.h>

namespace rora::detail {

/// The most likely continuation of each prompt that a beam of `options.num_beams()` finds, ended by one of `stops` or
/// by `options.max_new_tokens()`.
std::vector<std::vector<int64_t>> beam_search(
    CausalLM model, const std::vector<std::vector<int64_t>>& prompts, const GenerationOptions& options,
    const std::vector<int64_t>& stops);

} // namespace rora::detail
