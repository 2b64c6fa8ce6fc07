#include "question.h"

#include <stdexcept>

namespace rora::detail {

std::vector<int64_t> encode_prompt(const Tokenizer& tokenizer, const Record& record) {
  std::vector<int64_t> ids = tokenizer.encode(record.prompt, true);
  const std::vector<int64_t> added = tokenizer.encode("", true);
  const bool adds_eos = tokenizer.eos_id && !added.empty() && added.back() == *tokenizer.eos_id &&
                        (added.size() > 1 || tokenizer.bos_id != tokenizer.eos_id);
  if (adds_eos) {
    ids.pop_back();
  }
  if (ids.empty()) {
    throw std::invalid_argument(record.place() + ": expected a prompt, found an empty one");
  }
  return ids;
}

std::string decode_answer(const Tokenizer& tokenizer, std::vector<int64_t> ids) {
  std::erase_if(ids, [&](int64_t id) { return id >= tokenizer.vocab_size(); });
  return tokenizer.decode(ids, /*skip_special_tokens=*/true);
}

void require_completion(const Record& record) {
  if (record.kind != RecordKind::kCompletion) {
    throw std::invalid_argument(
        record.place() + ": expected `instruction` and `output`, or `prompt` and `completion`, to take an answer from");
  }
}

} // namespace rora::detail
