#include "record_encoder.h"

#include <rora/text/prompt.h>

#include <c10/util/Exception.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <string_view>

namespace rora::detail {
namespace {

std::string_view first_line(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) {
    return {};
  }
  text = text.substr(begin, text.find('\n', begin) - begin);
  return text.substr(0, text.find_last_not_of(kSpace) + 1);
}

/// The texts of a message: its content, or those of its parts.
std::vector<std::string> texts_of(const ChatMessage& message) {
  std::vector<std::string> texts{message.content};
  if (message.fields.find("\"content\"") != std::string::npos) {
    const auto fields = nlohmann::json::parse(message.fields, nullptr, /*allow_exceptions=*/false);
    if (const auto parts = fields.find("content"); parts != fields.end() && parts->is_array()) {
      for (const auto& part : *parts) {
        if (part.is_object() && part.contains("text") && part["text"].is_string()) {
          texts.push_back(part["text"].get<std::string>());
        }
      }
    }
  }
  return texts;
}

} // namespace

std::optional<size_t> RecordEncoder::find_unwritten(const std::vector<ChatMessage>& messages, std::string_view chat) {
  for (size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].role == "assistant") {
      continue; // what a template leaves out of earlier answers, such as their thoughts, it leaves out in generation
    }
    for (const std::string& text : texts_of(messages[i])) {
      if (chat.find(first_line(text)) == std::string_view::npos) {
        return i;
      }
    }
  }
  return std::nullopt;
}

Example RecordEncoder::encode_as_chat(const Record& record) {
  if (record.kind == RecordKind::kChat) {
    return encode_chat(record.messages, record.prompt_messages, record.tools);
  }
  std::vector<ChatMessage> messages = record.messages;
  messages.push_back({"assistant", record.completion});
  return encode_chat(messages, messages.size() - 1, "");
}

Example RecordEncoder::encode_chat(const std::vector<ChatMessage>& messages, size_t first, const std::string& tools) {
  Example example;
  const auto is_empty = [](const ChatMessage& message) { return message.content.empty() && message.fields.empty(); };
  if (std::all_of(messages.begin(), messages.end(), is_empty)) {
    return example;
  }
  if (!chat_template_) {
    chat_template_ = options_.chat_template() ? *options_.chat_template() : default_chat_template(*tokenizer_);
    end_of_message_ = end_of_message(*tokenizer_, *chat_template_);
  }
  const RenderOptions options = RenderOptions().tools(tools).now(now_);
  if (options_.train_on_inputs()) { // the places of answers do not matter
    const std::string text = chat_template_->render(messages, options).text;
    unwritten_ = find_unwritten(messages, text);
    append(example, tokenizer_->encode(text, false), true);
    return example;
  }
  const std::vector<Piece> pieces = chat_template_->marks_generation(!tools.empty())
      ? generated_pieces(messages, first, options)
      : prefix_pieces(messages, first, options);
  std::string text;
  for (const Piece& piece : pieces) {
    text += piece.text;
  }
  unwritten_ = find_unwritten(messages, text);
  const std::vector<int64_t> ids = tokenizer_->encode(text, false);
  size_t begin = 0;
  size_t offset = 0;
  for (size_t i = 0; i < pieces.size(); ++i) {
    offset += pieces[i].text.size();
    const std::string* const previous = i > 0 ? &pieces[i - 1].text : nullptr;
    const size_t end = i + 1 == pieces.size()
        ? ids.size()
        : end_of_piece(ids, begin, previous, pieces[i].text, std::string_view(text).substr(0, offset));
    const std::vector<int64_t> own(
        ids.begin() + static_cast<std::ptrdiff_t>(begin), ids.begin() + static_cast<std::ptrdiff_t>(end));
    const bool by_prefix = pieces[i].labelled && !chat_template_->marks_generation(!tools.empty());
    const size_t labelled = by_prefix ? end_of_answer(own) : (pieces[i].labelled ? own.size() : 0);
    const auto middle = own.begin() + static_cast<std::ptrdiff_t>(labelled);
    append(example, {own.begin(), middle}, true);
    append(example, {middle, own.end()}, false);
    begin = end;
  }
  return example;
}

size_t RecordEncoder::end_of_piece(
    const std::vector<int64_t>& ids, size_t begin, const std::string* previous, const std::string& piece,
    std::string_view prefix) const {
  const std::vector<int64_t> own = previous == nullptr ? tokenizer_->encode(piece, false)
                                                       : encode_continuation(*tokenizer_, *previous, piece, false);
  if (own.size() <= ids.size() - begin &&
      std::equal(own.begin(), own.end(), ids.begin() + static_cast<std::ptrdiff_t>(begin))) {
    return begin + own.size();
  }
  // A token goes over the end: it belongs to what follows.
  const std::vector<int64_t> before = tokenizer_->encode(prefix, false);
  const size_t count = std::min(before.size(), ids.size());
  const auto differ = std::mismatch(before.begin(), before.begin() + static_cast<std::ptrdiff_t>(count), ids.begin());
  return std::max(begin, static_cast<size_t>(differ.first - before.begin()));
}

std::vector<RecordEncoder::Piece> RecordEncoder::generated_pieces(
    const std::vector<ChatMessage>& messages, size_t first, const RenderOptions& options) const {
  const RenderedChat chat = chat_template_->render(messages, options);
  std::vector<Piece> pieces;
  size_t end = 0;
  const auto add = [&](size_t to, bool labelled) {
    if (to > end) {
      pieces.push_back({chat.text.substr(end, to - end), labelled});
      end = to;
    }
  };
  // The assistants of a prompt, and one that opens the chat, write the first of the blocks and take no label.
  size_t unlabelled = static_cast<size_t>(std::count_if(
      messages.begin(), messages.begin() + static_cast<std::ptrdiff_t>(std::max<size_t>(first, 1)),
      [](const ChatMessage& message) { return message.role == "assistant"; }));
  for (const auto& [from, to] : chat.generated) {
    add(from, false);
    add(to, unlabelled == 0);
    unlabelled -= unlabelled > 0 ? 1 : 0;
  }
  add(chat.text.size(), false);
  return pieces;
}

std::vector<RecordEncoder::Piece> RecordEncoder::prefix_pieces(
    const std::vector<ChatMessage>& messages, size_t first, const RenderOptions& options) const {
  std::vector<Piece> pieces;
  std::string text;
  const auto extend = [&](size_t count, bool with_prompt, bool labelled) {
    const auto end = messages.begin() + static_cast<std::ptrdiff_t>(count);
    RenderOptions asked = options;
    const std::string longer =
        chat_template_->render({messages.begin(), end}, asked.add_generation_prompt(with_prompt)).text;
    if (longer.compare(0, text.size(), text) != 0) {
      C10_THROW_ERROR(
          ValueError,
          "message " + std::to_string(count - 1) + ": the chat template " + chat_template_->origin() +
              " writes what stands before it otherwise once it follows, so that the answers' places are not known: a "
              "template with {% generation %} blocks says where they are");
    }
    if (longer.size() > text.size()) {
      pieces.push_back({longer.substr(text.size()), labelled});
      text = longer;
    }
  };
  for (size_t i = std::max<size_t>(first, 1); i < messages.size(); ++i) {
    // An assistant's message that opens a chat answers nothing: it is context.
    if (messages[i].role == "assistant") {
      const bool is_empty = messages[i].content.empty() && messages[i].fields.empty();
      extend(i, true, false);
      const size_t before = text.size();
      extend(i + 1, false, !is_empty);
      if (!is_empty && is_end_alone(text.substr(before))) {
        C10_THROW_ERROR(
            ValueError,
            "message " + std::to_string(i) + ": the chat template " + chat_template_->origin() +
                " writes nothing of this answer but its end (parts of content and tool_calls are for templates that " +
                "know them)");
      }
    }
  }
  extend(messages.size(), false, false);
  return pieces;
}

bool RecordEncoder::is_end_alone(const std::string& text) const {
  std::vector<int64_t> ids = tokenizer_->encode(text, false);
  ids.resize(end_of_answer(ids));
  const std::string written = tokenizer_->decode(ids, /*skip_special_tokens=*/true);
  return written.find_first_not_of(" \t\r\n") == std::string::npos;
}

size_t RecordEncoder::end_of_answer(const std::vector<int64_t>& ids) const {
  for (const std::optional<int64_t>& end : {end_of_message_, tokenizer_->eos_id}) {
    if (const auto last = std::find(ids.rbegin(), ids.rend(), end.value_or(-1)); last != ids.rend()) {
      return static_cast<size_t>(ids.rend() - last);
    }
  }
  return ids.size();
}

} // namespace rora::detail
