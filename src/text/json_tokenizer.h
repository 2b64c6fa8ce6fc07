#pragma once

#include <rora/text/tokenizer.h>

#include "text/added_tokens.h"
#include "text/byte_pair_encoding.h"
#include "text/decoder.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"

#include <map>

namespace rora::detail {

/// The tokenizer that a tokenizer.json describes.
class JsonTokenizer : public Tokenizer {
 public:
  /// `field` is the whole document. Throws `FormatError` for what is malformed or not supported.
  explicit JsonTokenizer(const JsonField& field);

  std::vector<int64_t> encode(std::string_view text, bool add_special_tokens) const override;
  std::string decode(c10::ArrayRef<int64_t> ids, bool skip_special_tokens) const override;
  int64_t vocab_size() const override;
  std::optional<int64_t> token_id(std::string_view token) const override;

  /// Finds `token` in texts from now on, by the id that the vocabulary has for its content. Nothing changes for one
  /// that is found already. Returns why a token cannot be added, or nothing.
  std::optional<std::string> add_token(AddedToken token);

 private:
  struct DecodedToken {
    std::string spelling;
    bool special;
  };

  void read_added_tokens(const JsonField& field);
  /// Returns false where another token is spelled so.
  bool insert(const AddedToken& token, std::string spelling);
  void read_post_processor(const JsonField& field);
  void read_template(const JsonField& field);
  void encode_text(std::string_view text, bool begins_text, std::vector<int64_t>& ids) const;
  void encode_normalized(std::string_view text, bool begins_text, std::vector<int64_t>& ids) const;

  BytePairEncoding model_;
  std::unique_ptr<Normalizer> normalizer_;
  std::unique_ptr<PreTokenizer> pre_tokenizer_;
  std::unique_ptr<Decoder> decoder_;
  AddedTokenFinder raw_tokens_; // found before the text is normalized
  AddedTokenFinder normalized_tokens_; // found after that
  std::map<std::string, int64_t, std::less<>> added_ids_;
  std::map<int64_t, DecodedToken> added_tokens_;
  bool has_template_ = false;
  std::vector<int64_t> prefix_; // the special tokens before and after the text
  std::vector<int64_t> suffix_;
};

/// Reads `path`, a tokenizer.json.
std::unique_ptr<JsonTokenizer> load_json_tokenizer(const std::filesystem::path& path);

} // namespace rora::detail
