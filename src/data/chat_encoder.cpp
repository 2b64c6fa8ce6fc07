#include "record_encoder.h"

#include <rora/text/prompt.h>

#include <algorithm>
#include <stdexcept>

namespace rora::detail {

Example RecordEncoder::encode_chat(const std::vector<ChatMessage>& messages) const {
  Example example;
  if (std::all_of(messages.begin(), messages.end(), [](const ChatMessage& m) { return m.content.empty(); })) {
    return example;
  }
  const ChatTemplate format = options_.chat_template() ? *options_.chat_template() : default_chat_template(*tokenizer_);
  const std::string* previous = nullptr;
  for (const Piece& piece : chat_pieces(format, messages)) {
    std::vector<int64_t> ids;
    if (previous == nullptr) {
      ids = encode_chat_prompt(*tokenizer_, format, piece.text);
    } else {
      ids = encode_after(*previous, piece.text);
    }
    const size_t end = piece.labelled ? end_of_answer(ids) : 0;
    append(example, {ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(end)}, true);
    append(example, {ids.begin() + static_cast<std::ptrdiff_t>(end), ids.end()}, options_.train_on_inputs());
    previous = &piece.text;
  }
  return example;
}

std::vector<RecordEncoder::Piece> RecordEncoder::chat_pieces(
    ChatTemplate format, const std::vector<ChatMessage>& messages) const {
  std::vector<Piece> pieces;
  std::string text;
  const auto extend = [&](const std::string& longer, bool labelled) {
    if (longer.compare(0, text.size(), text) != 0) {
      throw std::logic_error("the rendering of a chat's first messages is not a prefix of the whole");
    }
    if (longer.size() > text.size()) {
      pieces.push_back({longer.substr(text.size()), labelled});
      text = longer;
    }
  };
  for (size_t i = 0; i < messages.size(); ++i) {
    // An assistant's message that opens a chat answers nothing: it is context.
    if (i > 0 && messages[i].role == "assistant") {
      const auto end = messages.begin() + static_cast<std::ptrdiff_t>(i);
      extend(render_chat(format, {messages.begin(), end}, true), false);
      extend(render_chat(format, {messages.begin(), end + 1}, false), !messages[i].content.empty());
    }
  }
  extend(render_chat(format, messages, false), false);
  return pieces;
}

size_t RecordEncoder::end_of_answer(const std::vector<int64_t>& ids) const {
  if (tokenizer_->eos_id) {
    const auto last = std::find(ids.rbegin(), ids.rend(), *tokenizer_->eos_id);
    if (last != ids.rend()) {
      return static_cast<size_t>(ids.rend() - last);
    }
  }
  return ids.size();
}

std::vector<int64_t> RecordEncoder::encode_after(const std::string& previous, const std::string& text) const {
  const std::vector<int64_t> before = tokenizer_->encode(previous, false);
  const std::vector<int64_t> both = tokenizer_->encode(previous + text, false);
  if (both.size() >= before.size() && std::equal(before.begin(), before.end(), both.begin())) {
    return {both.begin() + static_cast<std::ptrdiff_t>(before.size()), both.end()};
  }
  return tokenizer_->encode(text, false);
}

} // namespace rora::detail
