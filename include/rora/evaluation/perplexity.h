#pragma once

#include <rora/data/dataset.h>
#include <rora/model/causal_lm.h>

#include <cstdint>
#include <functional>
#include <vector>

namespace rora {

/// How well a model predicts the labelled tokens of examples.
struct Perplexity {
  double loss = 0.0; ///< the mean of −ln p(token | tokens before it) over `tokens`
  int64_t tokens = 0; ///< labelled tokens, without those that open an example: nothing predicts them

  /// exp(loss), per token.
  double perplexity() const;
};

/// The perplexity over `examples`, in evaluation mode and without gradients. Examples of like length go together, so
/// the order that they stand in costs nothing. `on_progress` is given the number of examples done after each batch; on
/// a GPU, which is waited for at the end, the number of those that it has been given to do. Throws `c10::ValueError`
/// for a batch size below 1 and for examples without a labelled token, and `NotFiniteError` for a loss that is not
/// finite.
Perplexity evaluate_perplexity(
    CausalLM model, const std::vector<Example>& examples, int64_t batch_size = 16,
    const std::function<void(int64_t)>& on_progress = nullptr);

} // namespace rora
