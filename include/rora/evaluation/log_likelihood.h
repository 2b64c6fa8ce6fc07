#pragma once

#include <rora/model/causal_lm.h>

#include <cstdint>
#include <vector>

namespace rora {

/// A prompt and what may follow it, as token ids.
struct PromptContinuations {
  std::vector<int64_t> prompt;
  std::vector<std::vector<int64_t>> continuations;
};

/// ln p(continuation | prompt) = Σ ln p(token | tokens before it), for each continuation of each prompt, in evaluation
/// mode. What the continuations of a prompt have in common is computed once, prompt included. `batch_size` is that of
/// prompts. Throws `c10::ValueError` for an empty prompt, an empty continuation, an id outside the vocabulary and
/// a batch size below 1, and `NotFiniteError` where a likelihood is not finite.
std::vector<std::vector<double>> log_likelihoods(
    CausalLM model, const std::vector<PromptContinuations>& prompts, int64_t batch_size = 16);

} // namespace rora
