#pragma once

#include <rora/model/decoder.h>

#include <ATen/ATen.h>

namespace rora::testing {

inline DecoderOptions tiny_llama_options() {
  return DecoderOptions()
      .vocab_size(32)
      .hidden_size(16)
      .intermediate_size(24)
      .num_hidden_layers(2)
      .num_attention_heads(4)
      .num_key_value_heads(2)
      .max_position_embeddings(64);
}

/// A LLaMA with random weights that follow from `seed`.
inline DecoderForCausalLM tiny_llama(const DecoderOptions& options = tiny_llama_options(), uint64_t seed = 1) {
  at::NoGradGuard no_grad;
  at::manual_seed(seed);
  DecoderForCausalLM model(options);
  for (at::Tensor parameter : model->parameters()) {
    if (parameter.dim() > 1) {
      parameter.normal_(0.0, 0.2);
    } else {
      parameter.normal_(1.0, 0.1);
    }
  }
  model->eval();
  return model;
}

/// The decoder below a model's head.
inline Decoder decoder_of(const CausalLM& model) {
  return std::dynamic_pointer_cast<DecoderForCausalLMImpl>(model.ptr())->model;
}

} // namespace rora::testing
