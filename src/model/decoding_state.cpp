#include "decoding_state.h"

#include "all_finite.h"

#include <rora/error.h>

#include <ATen/ATen.h>

#include <algorithm>
#include <stdexcept>

namespace rora::detail {

DecodingState::DecodingState(CausalLM model, const std::vector<std::vector<int64_t>>& prompts, int64_t copies)
    : model_(model) {
  size_t longest = 0;
  bool padded = false;
  for (const auto& prompt : prompts) {
    padded = padded || (longest != 0 && prompt.size() != longest);
    longest = std::max(longest, prompt.size());
  }
  const auto rows = static_cast<int64_t>(prompts.size());
  const auto columns = static_cast<int64_t>(longest);
  at::Tensor input_ids = at::zeros({rows, columns}, at::kLong);
  at::Tensor attention_mask = at::zeros({rows, columns}, at::kLong);
  for (int64_t row = 0; row < rows; ++row) {
    const auto& prompt = prompts[static_cast<size_t>(row)];
    const auto length = static_cast<int64_t>(prompt.size());
    input_ids[row].slice(0, columns - length).copy_(at::tensor(prompt, at::kLong));
    attention_mask[row].slice(0, columns - length).fill_(1);
  }
  const at::Device device = model->device();
  if (padded) {
    attention_mask_ = attention_mask.to(device);
  }
  run(input_ids.to(device));
  if (copies > 1) {
    std::vector<int64_t> repeated;
    for (int64_t row = 0; row < rows * copies; ++row) {
      repeated.push_back(row / copies);
    }
    select(repeated);
  }
}

void DecodingState::select(const std::vector<int64_t>& rows) {
  const at::Tensor index = at::tensor(rows, at::kLong).to(logits_.device());
  cache_.select(index);
  logits_ = logits_.index_select(0, index);
  if (attention_mask_.defined()) {
    attention_mask_ = attention_mask_.index_select(0, index);
  }
}

void DecodingState::append(const std::vector<int64_t>& tokens) {
  const at::Tensor column = at::tensor(tokens, at::kLong).to(logits_.device()).unsqueeze(1);
  if (attention_mask_.defined()) {
    attention_mask_ = at::cat({attention_mask_, at::ones_like(column)}, 1);
  }
  run(column);
}

void DecodingState::run(const at::Tensor& input_ids) {
  const at::Tensor hidden = model_->hidden_states({input_ids, attention_mask_, {}}, &cache_);
  logits_ = model_->logits(hidden.select(1, -1));
  if (!all_finite(logits_)) {
    throw NotFiniteError("the model's logits are NaN or infinite: its numbers overflow");
  }
}

} // namespace rora::detail
