#pragma once

#include <rora/data/batch.h>
#include <rora/model/llama.h>

namespace rora::detail {

/// The model's loss on a batch, brought to the model's device.
inline LossSum batch_loss(LlamaForCausalLM& model, const Batch& batch) {
  const at::Device device = model->head_weight().device();
  LlamaInput input;
  input.input_ids = batch.input_ids.to(device);
  if (batch.attention_mask.defined()) {
    input.attention_mask = batch.attention_mask.to(device);
  }
  return model->loss(input, batch.labels.to(device));
}

} // namespace rora::detail
