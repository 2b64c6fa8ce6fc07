#pragma once

#include "support/tiny_llama.h"

#include <rora/adapters/attach.h>
#include <rora/training/trainer.h>

#include <ATen/ATen.h>

// What the trainer's tests train, and with which options.
namespace rora::testing {

/// Sequences that count upwards from a seed, labelled from a third of their length on: unequal lengths and label
/// counts.
inline std::vector<Example> counting(int64_t count, int64_t first = 0) {
  std::vector<Example> examples;
  for (int64_t i = first; i < first + count; ++i) {
    Example example;
    const int64_t length = 4 + i % 7;
    for (int64_t place = 0; place < length; ++place) {
      const int64_t id = (3 * i + place) % 32;
      example.input_ids.push_back(id);
      example.labels.push_back(3 * place < length ? kIgnoreIndex : id);
    }
    examples.push_back(example);
  }
  return examples;
}

inline DecoderForCausalLM adapted(double dropout = 0.0, at::ScalarType dtype = at::kFloat) {
  auto model = tiny_llama();
  model->to(dtype);
  at::manual_seed(31);
  attach_adapters(*model, AdapterOptions().low_rank(LowRankOptions().rank(4).alpha(8).dropout(dropout)));
  return model;
}

inline TrainerOptions options(int64_t batch_size = 4) {
  TrainerOptions options;
  options.lr(1e-2).max_steps(6);
  BatchOptions batches;
  batches.batch_size(batch_size);
  batches.seed(5);
  return options.batches(batches);
}

inline at::Tensor flat(const CausalLM& model) {
  std::vector<at::Tensor> parts;
  for (const at::Tensor& each : adapter_parameters(*model)) {
    parts.push_back(each.detach().flatten());
  }
  return at::cat(parts).clone();
}

} // namespace rora::testing
