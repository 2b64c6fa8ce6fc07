#include <rora/training/trainer.h>

#include "batch_input.h"

#include <ATen/ATen.h>

#include <stdexcept>

namespace rora {

double mean_loss(LlamaForCausalLM& model, const std::vector<Example>& examples, int64_t batch_size) {
  at::NoGradGuard no_grad;
  const bool was_training = model->is_training();
  model->eval();
  double sum = 0.0;
  int64_t tokens = 0;
  for (const auto& rows : plan_epoch(examples, {.batch_size = batch_size, .shuffle = false}, 0)) {
    const LossSum loss = detail::batch_loss(model, make_batch(examples, rows));
    sum += loss.sum.item<double>();
    tokens += loss.tokens;
  }
  model->train(was_training);
  if (tokens == 0) {
    throw std::invalid_argument("the data has no labelled token to take a loss on");
  }
  return sum / static_cast<double>(tokens);
}

} // namespace rora
