#pragma once

#include <rora/evaluation/answer.h>
#include <rora/model/generation.h>
#include <rora/text/chat_template.h>
#include <rora/text/tokenizer.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

namespace rora {

struct GenerationTaskOptions {
  TORCH_ARG(int64_t, batch_size) = 32;
  /// Without stop tokens: the tokenizer's EOS and the model's.
  TORCH_ARG(GenerationOptions, generation) = GenerationOptions().max_new_tokens(72);
  TORCH_ARG(std::optional<ChatTemplate>, chat_template); // prompts are its chats; absent: they are text
};

/// Answers by generation: each record's prompt is continued, the text is decoded without special tokens, and its answer
/// read off by the rule of the record's gold answer (`gold_answer`, `extract_answer`). Prompts of like length go
/// together, padded on the left. `on_progress` is given the number of records done after each batch.
///
/// Throws `c10::ValueError` that names the record for one that is not a prompt and its answer, or has no gold
/// answer to compare with, and for options out of range.
AnswerEvaluation evaluate_generation(
    CausalLM model, const Tokenizer& tokenizer, const std::vector<Record>& records,
    const GenerationTaskOptions& options = {}, const std::function<void(int64_t)>& on_progress = nullptr);

} // namespace rora
