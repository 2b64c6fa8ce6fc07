#pragma once

#include <rora/model/llama.h>

#include <cstdint>
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
/// unequal length are padded on the left. Throws `std::invalid_argument` for an empty prompt and for options out of
/// range. `on_token(row, id)` is called as tokens are chosen (not by beam search).
std::vector<std::vector<int64_t>> generate(
    LlamaForCausalLM& model,
    const std::vector<std::vector<int64_t>>& prompts,
    const GenerationOptions& options = {},
    const std::function<void(int64_t, int64_t)>& on_token = nullptr);

} // namespace rora
