#include <rora/text/tokenizer.h>

#include "checkpoint/other_forms.h"
#include "checkpoint/quote.h"
#include "text/json_field.h"
#include "text/json_tokenizer.h"
#include "text/sentencepiece_tokenizer.h"

#include <rora/error.h>

#include <nlohmann/json.hpp>

#include <array>

namespace rora {

namespace {

using detail::JsonField;

/// A special token of the tokenizer, and whether a file that comes earlier in the order has named it.
struct SpecialToken {
  std::string name; // as the files' keys begin
  std::optional<int64_t>* id;
  bool named = false;
};

using SpecialTokens = std::array<SpecialToken, 3>;

// The spelling, as a string or as an added token's object.
void read_spelling(const JsonField& field, const Tokenizer& tokenizer, SpecialToken& token) {
  if (field.is_null()) {
    return;
  }
  const std::string spelling = field.is_string() ? field.string() : field["content"].string();
  if (spelling.empty()) {
    return;
  }
  const std::optional<int64_t> id = tokenizer.token_id(spelling);
  if (!id) {
    field.fail(detail::quote(spelling) + " is not in the vocabulary");
  }
  *token.id = id;
  token.named = true;
}

// The id, or several, of which the first is meant; a negative one is none.
void read_id(const JsonField& field, const Tokenizer& tokenizer, SpecialToken& token) {
  if (field.is_null() || (field.is_array() && field.elements().empty())) {
    return;
  }
  const JsonField first = field.is_array() ? field.elements().front() : field;
  const int64_t id = first.integer();
  if (id < 0) {
    return;
  }
  *token.id = id;
  token.named = true;
}

void read_special_tokens(const std::filesystem::path& folder, Tokenizer& tokenizer) {
  SpecialTokens tokens = {
      {{"bos_token", &tokenizer.bos_id}, {"eos_token", &tokenizer.eos_id}, {"pad_token", &tokenizer.pad_id}}};
  struct Source {
    const char* file;
    bool has_spellings;
  };
  constexpr std::array<Source, 4> kSources = {{
      {"tokenizer_config.json", true},
      {"special_tokens_map.json", true},
      {"generation_config.json", false},
      {"config.json", false},
  }};
  for (const Source& source : kSources) {
    const std::filesystem::path path = folder / source.file;
    if (!std::filesystem::exists(path)) {
      continue;
    }
    const nlohmann::json document = detail::read_json_object(path);
    const JsonField root(path, document);
    for (SpecialToken& token : tokens) {
      if (token.named) {
        continue;
      }
      if (source.has_spellings) {
        read_spelling(root[token.name], tokenizer, token);
      } else {
        read_id(root[token.name + "_id"], tokenizer, token);
      }
    }
  }
}

} // namespace

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& folder, TokenizerKind kind) {
  detail::require_folder(folder);
  const std::filesystem::path model = folder / "tokenizer.model";
  const std::filesystem::path json = folder / "tokenizer.json";
  if (kind == TokenizerKind::kAuto) {
    if (std::filesystem::exists(model)) {
      kind = TokenizerKind::kSentencePiece;
    } else if (std::filesystem::exists(json)) {
      kind = TokenizerKind::kJson;
    } else {
      throw FileError(folder, "no tokenizer.model and no tokenizer.json here");
    }
  }
  std::unique_ptr<Tokenizer> tokenizer = kind == TokenizerKind::kSentencePiece
      ? detail::load_sentencepiece_tokenizer(folder)
      : detail::load_json_tokenizer(json);
  read_special_tokens(folder, *tokenizer);
  return tokenizer;
}

} // namespace rora
