#include <rora/text/tokenizer.h>

#include "checkpoint/other_forms.h"
#include "checkpoint/quote.h"
#include "text/json_field.h"
#include "text/json_tokenizer.h"
#include "text/named_tokens.h"
#include "text/sentencepiece_tokenizer.h"

#include <rora/error.h>

#include <nlohmann/json.hpp>

#include <algorithm>
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

void require_agreement(const JsonField& config, const char* name, bool added, const char* done, const char* undone) {
  const JsonField field = config[name];
  if (!field.is_null() && field.boolean() != added) {
    field.fail(std::string("it is ") + (added ? "false" : "true") + ", and tokenizer.json " + (added ? done : undone));
  }
}

/// Refuses a tokenizer_config.json that contradicts tokenizer.json: `tokenizers` would follow the one file and
/// transformers the other.
void check_added_tokens(const JsonField& config, const Tokenizer& tokenizer) {
  const std::vector<int64_t> plain = tokenizer.encode("a", /*add_special_tokens=*/false);
  const std::vector<int64_t> whole = tokenizer.encode("a");
  if (!config["bos_token"].is_null() && tokenizer.bos_id) {
    const bool begins =
        !whole.empty() && whole.front() == *tokenizer.bos_id && !std::equal(plain.begin(), plain.end(), whole.begin());
    require_agreement(
        config, "add_bos_token", begins, "begins a text with bos_token", "does not begin a text with bos_token");
  }
  if (!config["eos_token"].is_null() && tokenizer.eos_id) {
    const bool ends = !whole.empty() && whole.back() == *tokenizer.eos_id &&
        !std::equal(plain.rbegin(), plain.rend(), whole.rbegin());
    require_agreement(
        config, "add_eos_token", ends, "ends a text with eos_token", "does not end a text with eos_token");
  }
}

void check_config(const std::filesystem::path& path, const Tokenizer& tokenizer, TokenizerKind kind) {
  if (!std::filesystem::exists(path)) {
    return;
  }
  const nlohmann::json document = detail::read_json_object(path);
  const JsonField config(path, document);
  if (config["split_special_tokens"].boolean_or(false)) {
    config["split_special_tokens"].fail("expected false: special tokens are always found in a text");
  }
  if (kind == TokenizerKind::kJson) {
    check_added_tokens(config, tokenizer);
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
  std::unique_ptr<Tokenizer> tokenizer;
  if (kind == TokenizerKind::kSentencePiece) {
    tokenizer = detail::load_sentencepiece_tokenizer(folder);
  } else {
    auto own = detail::load_json_tokenizer(json);
    detail::add_named_tokens(folder, *own);
    tokenizer = std::move(own);
  }
  read_special_tokens(folder, *tokenizer);
  check_config(folder / "tokenizer_config.json", *tokenizer, kind);
  return tokenizer;
}

} // namespace rora
