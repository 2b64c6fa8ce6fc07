#pragma once

#include <rora/data/batch.h>
#include <rora/model/llama.h>

namespace rora::detail {

/// The model's loss on a batch, which may stay on the CPU.
inline LossSum batch_loss(LlamaForCausalLM& model, const Batch& batch) {
  LlamaInput input;
  input.input_ids = batch.input_ids;
  input.attention_mask = batch.attention_mask;
  return model->loss(input, batch.labels);
}

} // namespace rora::detail
