#pragma once

#include <rora/text/chat_template.h>
#include <rora/text/tokenizer.h>

#include <cstdint>
#include <string_view>
#include <vector>

namespace rora {

/// The ids of a text that something is to follow: with the special tokens that the tokenizer puts in front, without the
/// EOS that it may put behind. Training, evaluation and generation begin alike.
std::vector<int64_t> encode_prompt(const Tokenizer& tokenizer, std::string_view text);

/// `encode_prompt` for the beginning of a chat as `render_chat` writes it: with exactly one BOS where the tokenizer
/// adds one or the template has one (llama2, llama3).
std::vector<int64_t> encode_chat_prompt(const Tokenizer& tokenizer, ChatTemplate format, std::string_view text);

} // namespace rora
