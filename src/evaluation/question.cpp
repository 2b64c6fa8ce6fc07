#include "question.h"

#include <rora/text/prompt.h>

#include <c10/util/Exception.h>

namespace rora::detail {

std::vector<int64_t> encode_prompt(
    const Tokenizer& tokenizer, const Record& record, const std::optional<ChatTemplate>& chat_template) {
  std::vector<int64_t> ids;
  try {
    ids = chat_template ? encode_chat_prompt(tokenizer, *chat_template, record.messages)
                        : rora::encode_prompt(tokenizer, record.prompt);
  } catch (const c10::ValueError& error) {
    C10_THROW_ERROR(ValueError, record.place() + ": " + error.what_without_backtrace());
  }
  if (ids.empty()) {
    C10_THROW_ERROR(ValueError, record.place() + ": expected a prompt, found an empty one");
  }
  return ids;
}

std::vector<int64_t> encode_answer(
    const Tokenizer& tokenizer, const Record& record, const std::optional<ChatTemplate>& chat_template,
    const std::string& answer) {
  if (!chat_template) {
    return encode_continuation(tokenizer, record.prompt, answer);
  }
  const std::string chat = chat_template->render(record.messages, RenderOptions().add_generation_prompt(true)).text;
  return encode_continuation(tokenizer, chat, answer, /*add_special_tokens=*/false);
}

std::string decode_answer(const Tokenizer& tokenizer, std::vector<int64_t> ids) {
  std::erase_if(ids, [&](int64_t id) { return id >= tokenizer.vocab_size(); });
  return tokenizer.decode(ids, /*skip_special_tokens=*/true);
}

void require_completion(const Record& record) {
  if (record.kind != RecordKind::kCompletion) {
    C10_THROW_ERROR(
        ValueError,
        record.place() + ": expected `instruction` and `output`, or `prompt` and `completion`, to take an answer from");
  }
}

} // namespace rora::detail
