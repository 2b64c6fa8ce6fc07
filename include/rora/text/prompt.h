#pragma once

#include <rora/text/chat_template.h>
#include <rora/text/tokenizer.h>

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace rora {

/// The ids of a text that something is to follow: with the special tokens that the tokenizer puts in front, without the
/// EOS that it may put behind. Training, evaluation and generation begin alike.
std::vector<int64_t> encode_prompt(const Tokenizer& tokenizer, std::string_view text);

/// The ids of what follows a text: those that the two have together behind those of the text, `encode_prompt`'s or,
/// without special tokens, its own. Many tokenizers put a space in front of a text, which a continuation has not. Where
/// a token would go over the text's end, the text keeps its ids and the continuation has those that it has alone.
std::vector<int64_t> encode_continuation(
    const Tokenizer& tokenizer, std::string_view text, std::string_view continuation, bool add_special_tokens = true);

/// How the prompts of alpaca and prompt–completion records are written.
enum class PromptFormat {
  kAuto, ///< as chats where there is a chat template, else as text
  kChat, ///< as a user's message, by the chat template
  kAlpaca, ///< as text: alpaca records under "### Instruction:", prompts as they are
};

/// The ids of a chat up to where the assistant's next message begins: those of the template's text, whose special
/// tokens are all that there are. Throws what `ChatTemplate::render` throws.
std::vector<int64_t> encode_chat_prompt(
    const Tokenizer& tokenizer, const ChatTemplate& chat_template, const std::vector<ChatMessage>& messages,
    const RenderOptions& options = {});

/// The first special token behind an assistant's message, by the template: where generation is to stop. Nothing where
/// the template has none there, or does not take a chat of a user and an assistant.
std::optional<int64_t> end_of_message(const Tokenizer& tokenizer, const ChatTemplate& chat_template);

} // namespace rora
