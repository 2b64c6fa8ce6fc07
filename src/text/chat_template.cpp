#include <rora/text/chat_template.h>

#include "checkpoint/quote.h"
#include "text/utf8.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <utility>

namespace rora {

namespace {

constexpr std::array<std::pair<const char*, ChatTemplate>, 3> kNames = {{
    {"llama2", ChatTemplate::kLlama2},
    {"llama3", ChatTemplate::kLlama3},
    {"chatml", ChatTemplate::kChatML},
}};

// The published templates strip as Python does: the information separators count as white space too.
bool is_stripped(char32_t code_point) {
  return detail::is_white_space(code_point) || (code_point >= 0x1C && code_point <= 0x1F);
}

std::string strip(const std::string& content) {
  const std::string text = detail::to_valid_utf8(content);
  size_t begin = text.size();
  size_t end = 0;
  for (size_t offset = 0; offset < text.size();) {
    const size_t next = offset + detail::character_length(text, offset);
    if (!is_stripped(detail::code_point_at(text, offset))) {
      begin = std::min(begin, offset);
      end = next;
    }
    offset = next;
  }
  return begin < end ? text.substr(begin, end - begin) : "";
}

void check_roles(const std::vector<ChatMessage>& messages) {
  if (messages.empty()) {
    C10_THROW_ERROR(ValueError, "a chat needs at least one message");
  }
  for (size_t index = 0; index < messages.size(); ++index) {
    const std::string& role = messages[index].role;
    if (role != "system" && role != "user" && role != "assistant") {
      C10_THROW_ERROR(
          ValueError,
          "message " + std::to_string(index) + ": expected the role system, user or assistant, found " +
              detail::quote(role));
    }
  }
}

// The template keeps BOS and EOS around each exchange; the tokenizer adds the first BOS.
std::string render_llama2(const std::vector<ChatMessage>& messages, bool add_generation_prompt) {
  const bool has_system = messages.front().role == "system";
  const size_t first = has_system ? 1 : 0;
  if (messages.size() == first) {
    C10_THROW_ERROR(ValueError, "the llama2 chat template puts the system message into the user's, and there is none");
  }
  std::string text;
  for (size_t index = first; index < messages.size(); ++index) {
    const bool is_user = (index - first) % 2 == 0;
    if (messages[index].role != (is_user ? "user" : "assistant")) {
      C10_THROW_ERROR(
          ValueError,
          "message " + std::to_string(index) +
              ": the llama2 chat template takes at most one system message, the first, " +
              "then user and assistant in turns, found " + detail::quote(messages[index].role));
    }
    if (!is_user) {
      text += " " + strip(messages[index].content) + " </s>";
      continue;
    }
    std::string content = messages[index].content;
    if (has_system && index == first) {
      content = "<<SYS>>\n" + messages.front().content + "\n<</SYS>>\n\n" + content;
    }
    text += index == first ? "" : "<s>";
    text += "[INST] " + strip(content) + " [/INST]";
  }
  if (add_generation_prompt && messages.back().role != "user") {
    C10_THROW_ERROR(ValueError, "the llama2 chat template lets the assistant speak after the user only");
  }
  return text;
}

std::string render_llama3(const std::vector<ChatMessage>& messages, bool add_generation_prompt) {
  std::string text;
  for (const ChatMessage& message : messages) {
    text += "<|start_header_id|>" + message.role + "<|end_header_id|>\n\n" + strip(message.content) + "<|eot_id|>";
  }
  return add_generation_prompt ? text + "<|start_header_id|>assistant<|end_header_id|>\n\n" : text;
}

std::string render_chatml(const std::vector<ChatMessage>& messages, bool add_generation_prompt) {
  std::string text;
  for (const ChatMessage& message : messages) {
    text += "<|im_start|>" + message.role + "\n" + message.content + "<|im_end|>\n";
  }
  return add_generation_prompt ? text + "<|im_start|>assistant\n" : text;
}

} // namespace

ChatTemplate chat_template_from_name(std::string_view name) {
  for (const auto& [each, format] : kNames) {
    if (name == each) {
      return format;
    }
  }
  C10_THROW_ERROR(ValueError, "the chat template " + detail::quote(name) + " is not one of llama2, llama3, chatml");
}

std::string render_chat(ChatTemplate format, const std::vector<ChatMessage>& messages, bool add_generation_prompt) {
  check_roles(messages);
  switch (format) {
    case ChatTemplate::kLlama2:
      return render_llama2(messages, add_generation_prompt);
    case ChatTemplate::kLlama3:
      return render_llama3(messages, add_generation_prompt);
    case ChatTemplate::kChatML:
      return render_chatml(messages, add_generation_prompt);
  }
  C10_THROW_ERROR(ValueError, "no such chat template");
}

} // namespace rora
