#include <rora/model/generation.h>

#include "beam_search.h"
#include "decoding_state.h"
#include "evaluation_mode.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

namespace rora {
namespace {

void check(const std::vector<std::vector<int64_t>>& prompts, const GenerationOptions& options, int64_t vocab_size) {
  const auto require = [](bool holds, const char* message) {
    if (!holds) {
      C10_THROW_ERROR(ValueError, message);
    }
  };
  for (const auto& prompt : prompts) {
    require(!prompt.empty(), "a prompt has no tokens to go on from");
    for (const int64_t id : prompt) {
      if (id < 0 || id >= vocab_size) {
        C10_THROW_ERROR(
            ValueError,
            "token id " + std::to_string(id) + " of a prompt is outside the vocabulary of " +
                std::to_string(vocab_size));
      }
    }
  }
  require(options.max_new_tokens() >= 0, "max_new_tokens must not be negative");
  require(options.temperature() >= 0.0, "temperature must not be negative");
  require(options.top_k() >= 0, "top_k must not be negative");
  require(options.top_p() > 0.0 && options.top_p() <= 1.0, "top_p must be in (0, 1]");
  require(options.num_beams() >= 1, "num_beams must be at least 1");
  require(std::isfinite(options.length_penalty()), "length_penalty must be finite");
  require(
      options.num_beams() == 1 || options.temperature() == 0.0, "beam search does not sample: temperature must be 0");
}

constexpr double kLeastTemperature = 1e-30; // a float still

/// Chooses the next token of each row from logits `[rows, vocab]`.
class Sampler {
 public:
  explicit Sampler(const GenerationOptions& options)
      : options_(options), generator_(at::detail::createCPUGenerator(options.seed())) {}

  at::Tensor choose(const at::Tensor& logits) {
    if (options_.temperature() == 0.0) {
      return logits.argmax(-1);
    }
    // Below the greatest of all, so that a temperature near 0 overflows to −∞ alone, which has probability 0.
    const at::Tensor wide = logits.to(at::kFloat);
    at::Tensor scaled = (wide - wide.amax(-1, /*keepdim=*/true)) / std::max(options_.temperature(), kLeastTemperature);
    if (options_.top_k() > 0 && options_.top_k() < scaled.size(1)) {
      const at::Tensor least = std::get<0>(scaled.topk(options_.top_k(), 1)).slice(1, options_.top_k() - 1);
      scaled = scaled.masked_fill(scaled < least, -std::numeric_limits<float>::infinity());
    }
    at::Tensor probabilities = scaled.softmax(-1);
    if (options_.top_p() < 1.0) {
      keep_nucleus(probabilities);
    }
    return probabilities.cpu().multinomial(1, /*replacement=*/false, generator_).squeeze(1).to(logits.device());
  }

 private:
  /// Zeroes all but the fewest most likely tokens whose probabilities reach top_p (Holtzman et al., arXiv 1904.09751).
  void keep_nucleus(at::Tensor& probabilities) const {
    const auto [sorted, order] = probabilities.sort(-1, /*descending=*/true);
    const at::Tensor reached_before = sorted.cumsum(-1) - sorted >= options_.top_p();
    probabilities.scatter_(1, order, sorted.masked_fill(reached_before, 0.0));
  }

  const GenerationOptions& options_;
  at::Generator generator_;
};

std::vector<std::vector<int64_t>> choose_one_by_one(
    CausalLM model, const std::vector<std::vector<int64_t>>& prompts, const GenerationOptions& options,
    const std::vector<int64_t>& stops, const std::function<void(int64_t, int64_t)>& on_token) {
  std::vector<std::vector<int64_t>> continuations(prompts.size());
  detail::DecodingState state(model, prompts);
  Sampler sampler(options);
  std::vector<int64_t> running(prompts.size()); // the prompt of each row that goes on
  for (size_t i = 0; i < running.size(); ++i) {
    running[i] = static_cast<int64_t>(i);
  }
  for (int64_t step = 0; step < options.max_new_tokens() && !running.empty(); ++step) {
    const at::Tensor chosen = sampler.choose(state.logits()).cpu();
    std::vector<int64_t> rows, next, still;
    for (size_t row = 0; row < running.size(); ++row) {
      const int64_t id = chosen[static_cast<int64_t>(row)].item<int64_t>();
      continuations[static_cast<size_t>(running[row])].push_back(id);
      if (on_token) {
        on_token(running[row], id);
      }
      if (std::find(stops.begin(), stops.end(), id) == stops.end()) {
        rows.push_back(static_cast<int64_t>(row));
        next.push_back(id);
        still.push_back(running[row]);
      }
    }
    if (rows.size() != running.size()) {
      state.select(rows);
      running = still;
    }
    if (!running.empty() && step + 1 < options.max_new_tokens()) {
      state.append(next);
    }
  }
  return continuations;
}

} // namespace

std::vector<std::vector<int64_t>> generate(
    CausalLM model, const std::vector<std::vector<int64_t>>& prompts, const GenerationOptions& options,
    const std::function<void(int64_t, int64_t)>& on_token) {
  check(prompts, options, model->options.vocab_size());
  if (prompts.empty() || options.max_new_tokens() == 0) {
    return std::vector<std::vector<int64_t>>(prompts.size());
  }
  at::NoGradGuard no_grad;
  detail::EvaluationMode evaluation_mode(*model);
  const std::vector<int64_t>& stops =
      options.stop_token_ids().empty() ? model->options.eos_token_id() : options.stop_token_ids();
  return options.num_beams() > 1 ? detail::beam_search(model, prompts, options, stops)
                                 : choose_one_by_one(model, prompts, options, stops, on_token);
}

} // namespace rora
