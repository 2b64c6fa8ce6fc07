#pragma once

#include <rora/data/batch.h>
#include <rora/model/causal_lm.h>

namespace rora::detail {

/// What a model reads of a batch, which may stay on the CPU.
inline ModelInput batch_input(const Batch& batch) {
  ModelInput input;
  input.input_ids = batch.input_ids;
  input.attention_mask = batch.attention_mask;
  return input;
}

/// The model's loss on a batch, which may stay on the CPU.
inline LossSum batch_loss(CausalLM model, const Batch& batch) {
  return model->loss(batch_input(batch), batch.labels);
}

} // namespace rora::detail
