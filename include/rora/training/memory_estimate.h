#pragma once

#include <rora/data/batch.h>
#include <rora/model/llama.h>

#include <cstdint>
#include <vector>

namespace rora {

/// The largest batch that a run meets.
struct BatchShape {
  int64_t rows = 0;
  int64_t seq = 0; ///< with padding
  int64_t labelled_tokens = 0;
};

/// The batch with the most tokens of the first epoch, padding counted, and the most labelled tokens of any.
BatchShape largest_batch(const std::vector<Example>& examples, const BatchOptions& options);

/// Bytes that training a model will need, by what they hold. What is left out: LibTorch itself, temporaries of a few rows,
/// and pages that the allocator keeps.
struct MemoryEstimate {
  int64_t weights = 0; ///< frozen, mapped from the file or not
  int64_t trained = 0; ///< trained parameters
  int64_t gradients = 0; ///< as large, and for trained weights the largest one again while it is formed
  int64_t optimizer = 0; ///< AdamW's two moments
  int64_t best = 0; ///< the copy of the best parameters, where there is validation
  int64_t activations = 0; ///< what backward reads, and the gradients that stand beside it
  int64_t logits = 0; ///< of one chunk of labelled tokens, with the hidden states and gradients of all

  int64_t total() const {
    return weights + trained + gradients + optimizer + best + activations + logits;
  }
};

/// For a model whose adapters are attached and whose trained parameters require gradients. Activations are counted from
/// what each operation of a layer keeps for its backward; `validation`: whether the best parameters are kept.
MemoryEstimate estimate_memory(const LlamaForCausalLM& model, const BatchShape& batch, bool validation = false);

} // namespace rora
