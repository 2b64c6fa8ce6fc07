#pragma once

#include <rora/evaluation/answer.h>
#include <rora/model/causal_lm.h>
#include <rora/text/chat_template.h>
#include <rora/text/tokenizer.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace rora {

/// What a record asks to choose among: the words behind the last "Answer format:" of its prompt, parted by '/', to the
/// end of the line ("Answer format: answer1/answer2/answer3"). Empty where fewer than two can be read.
std::vector<std::string> answer_candidates(const Record& record);

/// Multiple choice by likelihood: a record's answer is the candidate X for which "the correct answer is X" has the
/// greatest log-likelihood after its prompt; of equals, the first. Records whose candidates or whose gold answer
/// (`gold_answer`) cannot be read, or whose gold answer is none of the candidates, count as unparsed, and so as wrong.
/// `on_progress` is given the number of records done after each batch of `batch_size` prompts.
///
/// With a chat template the prompts are its chats. Throws `c10::ValueError` that names the record for one that is not a
/// prompt and its answer, or that the template refuses, where no record can be read, and for a batch size below 1.
AnswerEvaluation evaluate_choice(
    CausalLM model, const Tokenizer& tokenizer, const std::vector<Record>& records, int64_t batch_size = 16,
    const std::function<void(int64_t)>& on_progress = nullptr,
    const std::optional<ChatTemplate>& chat_template = std::nullopt);

} // namespace rora
