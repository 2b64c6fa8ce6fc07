#pragma once

#include <rora/model/causal_lm.h>

#include <cstdint>
#include <vector>

namespace rora::detail {

/// Rows of tokens that grow by one token at a time, with their key–value cache; prompts are padded on the left.
class DecodingState {
 public:
  /// Runs the prompts. Each is repeated `copies` times, in neighbouring rows.
  DecodingState(CausalLM model, const std::vector<std::vector<int64_t>>& prompts, int64_t copies = 1);

  /// The logits that follow each row's last token, `[rows, vocab]`.
  const at::Tensor& logits() const {
    return logits_;
  }

  /// Row i becomes what row `rows[i]` was.
  void select(const std::vector<int64_t>& rows);

  /// Appends one token to each row and runs it.
  void append(const std::vector<int64_t>& tokens);

 private:
  void run(const at::Tensor& input_ids);

  CausalLM model_;
  KeyValueCache cache_;
  at::Tensor attention_mask_; // undefined while no row is padded
  at::Tensor logits_;
};

} // namespace rora::detail
