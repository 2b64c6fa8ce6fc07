#pragma once

#include <rora/evaluation/answer.h>
#include <rora/text/chat_template.h>
#include <rora/text/tokenizer.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace rora::detail {

/// The ids that an answer to the record's prompt goes on from, as in training. Throws `c10::ValueError` where
/// there are none: an empty prompt without a BOS; and what `ChatTemplate::render` throws, naming the record.
std::vector<int64_t> encode_prompt(
    const Tokenizer& tokenizer, const Record& record, const std::optional<ChatTemplate>& chat_template);

/// The ids of `answer` behind those of the record's prompt, as in training.
std::vector<int64_t> encode_answer(
    const Tokenizer& tokenizer, const Record& record, const std::optional<ChatTemplate>& chat_template,
    const std::string& answer);

/// The text of generated ids without special tokens. Ids that no token has are passed over: a model's embedding may
/// have more rows than its tokenizer has tokens.
std::string decode_answer(const Tokenizer& tokenizer, std::vector<int64_t> ids);

/// Throws `c10::ValueError` for a record that is not a prompt and its answer.
void require_completion(const Record& record);

} // namespace rora::detail
