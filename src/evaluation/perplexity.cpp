#include <rora/evaluation/perplexity.h>
#include <rora/error.h>

#include "../data/length_sorted.h"
#include "../model/evaluation_mode.h"
#include "batch_input.h"

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <cmath>
#include <stdexcept>

namespace rora {

double Perplexity::perplexity() const {
  return std::exp(loss);
}

Perplexity evaluate_perplexity(
    CausalLM model, const std::vector<Example>& examples, int64_t batch_size,
    const std::function<void(int64_t)>& on_progress) {
  const auto batches = detail::length_sorted_batches(
      static_cast<int64_t>(examples.size()), batch_size, [&](int64_t i) { return examples[i].input_ids.size(); });
  at::NoGradGuard no_grad;
  detail::EvaluationMode evaluation_mode(*model);
  Perplexity result;
  at::Tensor sum = at::zeros({}, at::TensorOptions().device(model->device()).dtype(at::kDouble));
  int64_t done = 0;
  for (const auto& batch : batches) {
    std::vector<std::vector<int64_t>> rows;
    for (const int64_t index : batch) {
      rows.push_back({index});
    }
    const LossSum loss = detail::batch_loss(model, make_batch(examples, rows));
    sum += loss.sum; // a GPU is waited for at the end
    result.tokens += loss.tokens;
    done += static_cast<int64_t>(batch.size());
    if (on_progress) {
      on_progress(done);
    }
  }
  TORCH_CHECK_VALUE(result.tokens > 0, "the data has no labelled token to take a loss on");
  result.loss = sum.item<double>() / static_cast<double>(result.tokens);
  if (!std::isfinite(result.loss)) {
    throw NotFiniteError("the loss is not finite: the model's numbers overflow");
  }
  return result;
}

} // namespace rora
