#include <rora/training/trainer.h>

#include "../data/length_sorted.h"
#include "batch_input.h"

#include <ATen/ATen.h>

#include <stdexcept>

namespace rora {

double mean_loss(CausalLM model, const std::vector<Example>& examples, int64_t batch_size) {
  at::NoGradGuard no_grad;
  const bool was_training = model->is_training();
  model->eval();
  at::Tensor sum = at::zeros({}, model->head_weight().options().dtype(at::kDouble));
  int64_t tokens = 0;
  const auto length = [&](int64_t index) { return examples[static_cast<size_t>(index)].input_ids.size(); };
  for (const auto& batch : detail::length_sorted_batches(static_cast<int64_t>(examples.size()), batch_size, length)) {
    std::vector<std::vector<int64_t>> rows;
    for (const int64_t index : batch) {
      rows.push_back({index});
    }
    const LossSum loss = detail::batch_loss(model, make_batch(examples, rows));
    sum += loss.sum; // a GPU is waited for at the end
    tokens += loss.tokens;
  }
  model->train(was_training);
  if (tokens == 0) {
    throw std::invalid_argument("the data has no labelled token to take a loss on");
  }
  return sum.item<double>() / static_cast<double>(tokens);
}

}  // namespace rora
