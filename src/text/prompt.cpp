#include <rora/text/prompt.h>

namespace rora {
namespace {

/// Whether the special tokens that the tokenizer adds itself end in EOS.
bool adds_eos(const Tokenizer& tokenizer) {
  const std::vector<int64_t> added = tokenizer.encode("", true);
  return tokenizer.eos_id && !added.empty() && added.back() == *tokenizer.eos_id &&
      (added.size() > 1 || tokenizer.bos_id != tokenizer.eos_id);
}

} // namespace

std::vector<int64_t> encode_prompt(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<int64_t> ids = tokenizer.encode(text, true);
  // The tokenizer is asked only where an EOS stands there: this runs for every record of a dataset.
  if (!ids.empty() && tokenizer.eos_id == ids.back() && adds_eos(tokenizer)) {
    ids.pop_back();
  }
  return ids;
}

std::vector<int64_t> encode_chat_prompt(const Tokenizer& tokenizer, ChatTemplate format, std::string_view text) {
  std::vector<int64_t> ids = encode_prompt(tokenizer, text);
  const auto bos = tokenizer.bos_id;
  const bool begins_with_bos = bos && !ids.empty() && ids[0] == *bos;
  if (bos && !begins_with_bos && format != ChatTemplate::kChatML) {
    ids.insert(ids.begin(), *bos);
  }
  while (begins_with_bos && ids.size() > 1 && ids[1] == *bos) {
    ids.erase(ids.begin());
  }
  return ids;
}

} // namespace rora
