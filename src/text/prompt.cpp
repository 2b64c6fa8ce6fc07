#include <rora/text/prompt.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <string>

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

std::vector<int64_t> encode_continuation(
    const Tokenizer& tokenizer, std::string_view text, std::string_view continuation, bool add_special_tokens) {
  const auto encode = [&](std::string_view each) {
    return add_special_tokens ? encode_prompt(tokenizer, each) : tokenizer.encode(each, false);
  };
  const std::vector<int64_t> before = encode(text);
  const std::vector<int64_t> both = encode(std::string(text) + std::string(continuation));
  if (both.size() >= before.size() && std::equal(before.begin(), before.end(), both.begin())) {
    return {both.begin() + static_cast<std::ptrdiff_t>(before.size()), both.end()};
  }
  return tokenizer.encode(continuation, false);
}

std::vector<int64_t> encode_chat_prompt(
    const Tokenizer& tokenizer, const ChatTemplate& chat_template, const std::vector<ChatMessage>& messages,
    const RenderOptions& options) {
  RenderOptions prompt = options;
  return tokenizer.encode(chat_template.render(messages, prompt.add_generation_prompt(true)).text, false);
}

std::optional<int64_t> end_of_message(const Tokenizer& tokenizer, const ChatTemplate& chat_template) {
  const std::string answer = "rora";
  std::string text;
  try {
    text = chat_template.render({{"user", "Hi"}, {"assistant", answer}}).text;
  } catch (const c10::ValueError&) {
    return std::nullopt;
  }
  const size_t found = text.rfind(answer);
  if (found == std::string::npos) {
    return std::nullopt;
  }
  for (const int64_t id : tokenizer.encode(text.substr(found + answer.size()), false)) {
    if (tokenizer.decode({id}, /*skip_special_tokens=*/true).empty() && !tokenizer.decode({id}).empty()) {
      return id;
    }
  }
  return std::nullopt;
}

} // namespace rora
