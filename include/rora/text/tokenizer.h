#pragma once

#include <c10/util/ArrayRef.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace rora {

/// Text to token ids and back. The const members may be called from several threads at once.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// The ids of `text`, taken byte for byte; with `add_special_tokens` those that the tokenizer itself adds (BOS).
  /// Special tokens that are spelled out in the text become their ids. What is not UTF-8 is read as U+FFFD, one for
  /// each maximal ill-formed part, as Python's `errors="replace"` does. Throws `c10::ValueError` for a text of over
  /// 16 MiB, and `FormatError` where a regular expression of the tokenizer's files takes too long on it or its
  /// normalizers grow it far more than sixteenfold.
  virtual std::vector<int64_t> encode(std::string_view text, bool add_special_tokens = true) const = 0;

  /// The text of `ids`, which is well-formed UTF-8: bytes that make no character are U+FFFD. With `skip_special_tokens`
  /// every special token is left out. Throws `c10::IndexError` for an id outside the vocabulary.
  virtual std::string decode(c10::ArrayRef<int64_t> ids, bool skip_special_tokens = false) const = 0;

  /// One more than the largest id.
  virtual int64_t vocab_size() const = 0;

  /// The id of a piece or added token that is spelled `token`.
  virtual std::optional<int64_t> token_id(std::string_view token) const = 0;

  /// From tokenizer_config.json, special_tokens_map.json, generation_config.json or config.json, or the sentencepiece
  /// model, in this order.
  std::optional<int64_t> bos_id;
  std::optional<int64_t> eos_id;
  std::optional<int64_t> pad_id;
};

enum class TokenizerKind {
  kAuto, ///< tokenizer.model where the folder has one, else tokenizer.json
  kSentencePiece, ///< tokenizer.model
  kJson, ///< tokenizer.json
};

/// The tokenizer of a Hugging Face folder. With tokenizer.json it gives the ids of the Python library `tokenizers`;
/// with tokenizer.model those of `sentencepiece` for what lies between the special and added tokens of a text. Throws
/// `FileError` where there is none and `FormatError` for one that is malformed, asks for something that is not
/// supported, or has a tokenizer.json that adds BOS or EOS where its tokenizer_config.json says otherwise.
std::unique_ptr<Tokenizer> load_tokenizer(
    const std::filesystem::path& folder, TokenizerKind kind = TokenizerKind::kAuto);

} // namespace rora
