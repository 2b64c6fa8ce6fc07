#pragma once

#include <rora/text/tokenizer.h>

#include <c10/util/Exception.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rora::testing {

/// A token a byte, but for a line break twice, which is one token, and the special tokens.
class ByteTokenizer : public Tokenizer {
 public:
  static constexpr int64_t kBos = 256;
  static constexpr int64_t kEos = 257;
  static constexpr int64_t kTwoLineBreaks = 258;

  /// `chat_tokens`: special tokens of a chat format; the last is EOS.
  explicit ByteTokenizer(bool adds_bos = true, bool adds_eos = false, std::vector<std::string> chat_tokens = {})
      : adds_bos_(adds_bos), adds_eos_(adds_eos), pieces_{"<s>", "</s>", "\n\n"} {
    bos_id = kBos;
    pieces_.insert(pieces_.end(), chat_tokens.begin(), chat_tokens.end());
    eos_id = chat_tokens.empty() ? kEos : vocab_size() - 1;
  }

  std::vector<int64_t> encode(std::string_view text, bool add_special_tokens = true) const override {
    std::vector<int64_t> ids;
    if (add_special_tokens && adds_bos_) {
      ids.push_back(kBos);
    }
    while (!text.empty()) {
      int64_t id = static_cast<unsigned char>(text.front());
      size_t length = 1;
      for (size_t i = 0; i < pieces_.size(); ++i) {
        if (text.starts_with(pieces_[i])) {
          id = 256 + static_cast<int64_t>(i);
          length = pieces_[i].size();
        }
      }
      ids.push_back(id);
      text.remove_prefix(length);
    }
    if (add_special_tokens && adds_eos_) {
      ids.push_back(*eos_id);
    }
    return ids;
  }

  std::string decode(c10::ArrayRef<int64_t> ids, bool skip_special_tokens = false) const override {
    std::string text;
    for (const int64_t id : ids) {
      if (id < 0 || id >= vocab_size()) {
        C10_THROW_ERROR(IndexError, "id " + std::to_string(id));
      }
      if (id < 256) {
        text += static_cast<char>(id);
      } else if (id == kTwoLineBreaks || !skip_special_tokens) {
        text += pieces_[id - 256];
      }
    }
    return text;
  }

  int64_t vocab_size() const override {
    return 256 + static_cast<int64_t>(pieces_.size());
  }

  std::optional<int64_t> token_id(std::string_view token) const override {
    for (size_t i = 0; i < pieces_.size(); ++i) {
      if (pieces_[i] == token) {
        return 256 + static_cast<int64_t>(i);
      }
    }
    return std::nullopt;
  }

 private:
  bool adds_bos_;
  bool adds_eos_;
  std::vector<std::string> pieces_;
};

/// A space in front of every text, as sentencepiece's dummy prefix.
class PrefixingTokenizer : public ByteTokenizer {
 public:
  std::vector<int64_t> encode(std::string_view text, bool add_special_tokens = true) const override {
    return ByteTokenizer::encode(text.empty() ? "" : " " + std::string(text), add_special_tokens);
  }
};

} // namespace rora::testing
