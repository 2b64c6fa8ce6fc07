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

/// Throws `c10::ValueError` that lists the names.
ChatTemplate chat_template_from_name(std::string_view name);

/// The text of `messages` by the template that the models were published with, without a BOS token where the tokenizer
/// adds one itself; with `add_generation_prompt` it ends where the assistant's next message begins. The rendering of
/// the first n messages is a prefix of that of all of them where the n-th is an assistant's, so labels can be found by
/// rendering prefixes.
///
///     llama2  [INST] <<SYS>>\nSYSTEM\n<</SYS>>\n\nUSER [/INST] ASSISTANT </s><s>[INST] USER [/INST] ...
///     llama3  <|start_header_id|>ROLE<|end_header_id|>\n\nCONTENT<|eot_id|>...
///     chatml  <|im_start|>ROLE\nCONTENT<|im_end|>\n...
///
/// White space around the contents is cut off in llama2 and llama3, as by the published templates. No system message is
/// made up where there is none. Throws `c10::ValueError` without messages, for another role, and in llama2 for an
/// order other than at most one system message, then user and assistant in turns, the user last where a generation
/// prompt is asked for.
std::string render_chat(ChatTemplate format, const std::vector<ChatMessage>& messages, bool add_generation_prompt);

} // namespace rora
