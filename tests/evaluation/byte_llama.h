#pragma once

#include "data/byte_tokenizer.h"
#include "support/tiny_llama.h"

#include <rora/data/record.h>

#include <c10/util/Exception.h>

#include <string>
#include <utility>

namespace rora::testing {

/// A random LLaMA over the tokens of `ByteTokenizer` that generates nothing but `letters` and the end token.
inline DecoderForCausalLM byte_llama(const std::string& letters, uint64_t seed = 1) {
  auto model = tiny_llama(tiny_llama_options().vocab_size(260).eos_token_id({ByteTokenizer::kEos}), seed);
  at::NoGradGuard no_grad;
  at::Tensor kept = at::zeros({260, 1});
  kept[ByteTokenizer::kEos] = 4.0;
  for (const char letter : letters) {
    kept[static_cast<unsigned char>(letter)] = 4.0;
  }
  model->lm_head->weight.mul_(kept);
  return model;
}

inline Record question(std::string prompt, std::string completion) {
  Record record;
  record.kind = RecordKind::kCompletion;
  record.prompt = std::move(prompt);
  record.completion = std::move(completion);
  record.number = 1;
  return record;
}

/// The message of the c10::ValueError that `run` throws, or "nothing thrown".
template <typename Function>
std::string refusal(Function run) {
  try {
    run();
  } catch (const c10::ValueError& error) {
    return error.what_without_backtrace();
  }
  return "nothing thrown";
}

} // namespace rora::testing
