#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace rora {

struct ChatMessage {
  std::string role; ///< "system", "user" or "assistant"
  std::string content;
};

/// A chat format by name: "llama2", "llama3" or "chatml".
enum class ChatTemplate { kLlama2, kLlama3, kChatML };

/// Throws `std::invalid_argument` that lists the names.
ChatTemplate chat_template_from_name(std::string_view name);

/// The text of `messages`, without a BOS token where the tokenizer adds one itself; with `add_generation_prompt` it ends
/// where the assistant's next message begins. The rendering of the first n messages is a prefix of that of all of them
/// where the n-th is an assistant's, so labels can be found by rendering prefixes.
std::string render_chat(ChatTemplate format, const std::vector<ChatMessage>& messages, bool add_generation_prompt);

} // namespace rora
