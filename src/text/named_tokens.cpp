#include "text/named_tokens.h"

#include "checkpoint/quote.h"
#include "text/json_field.h"
#include "text/json_tokenizer.h"

#include <nlohmann/json.hpp>

#include <array>
#include <charconv>
#include <string>

namespace rora::detail {
namespace {

/// A token, as its text or as an added token's object.
AddedToken token_of(const JsonField& field) {
  if (!field.is_string()) {
    field.object();
    AddedToken token = added_token_from_json(field);
    token.normalized = field["normalized"].boolean_or(!token.special);
    return token;
  }
  AddedToken token;
  token.content = field.string();
  token.normalized = false;
  token.special = true;
  return token;
}

void add(const JsonField& field, JsonTokenizer& tokenizer) {
  if (field.is_null() || (field.is_string() && field.string().empty())) {
    return;
  }
  if (const AddedToken token = token_of(field); !tokenizer.add_token(token)) {
    field.fail(quote(token.content) + " is not in the vocabulary");
  }
}

void add_all(const JsonField& field, JsonTokenizer& tokenizer) {
  if (field.is_null()) {
    return;
  }
  if (field.is_array()) {
    for (const JsonField& each : field.elements()) {
      add(each, tokenizer);
    }
    return;
  }
  for (const auto& item : field.object().items()) { // names that processors ask for
    add(field[item.key()], tokenizer);
  }
}

void require_id(const JsonField& field, const std::string& content, int64_t id, const JsonTokenizer& tokenizer) {
  const std::optional<int64_t> own = tokenizer.token_id(content);
  if (own && *own != id) {
    field.fail(
        quote(content) + " has the id " + std::to_string(*own) + " in tokenizer.json, not " + std::to_string(id));
  }
}

/// `added_tokens_decoder`: tokens by their ids.
void add_by_id(const JsonField& field, JsonTokenizer& tokenizer) {
  if (field.is_null()) {
    return;
  }
  for (const auto& item : field.object().items()) {
    const JsonField each = field[item.key()];
    int64_t id = 0;
    const char* const end = item.key().data() + item.key().size();
    if (const auto [stop, error] = std::from_chars(item.key().data(), end, id); error != std::errc() || stop != end) {
      field.fail("expected ids for keys, found " + quote(item.key()));
    }
    require_id(each, token_of(each).content, id, tokenizer);
    add(each, tokenizer);
  }
}

} // namespace

void add_named_tokens(const std::filesystem::path& folder, JsonTokenizer& tokenizer) {
  for (const char* file : {"tokenizer_config.json", "special_tokens_map.json"}) {
    const std::filesystem::path path = folder / file;
    if (!std::filesystem::exists(path)) {
      continue;
    }
    const nlohmann::json document = read_json_object(path);
    const JsonField root(path, document);
    add_by_id(root["added_tokens_decoder"], tokenizer);
    for (const char* name :
         {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}) {
      add(root[name], tokenizer);
    }
    add_all(root["additional_special_tokens"], tokenizer);
    add_all(root["extra_special_tokens"], tokenizer);
  }
  if (const auto path = folder / "added_tokens.json"; std::filesystem::exists(path)) {
    const nlohmann::json document = read_json_object(path);
    const JsonField root(path, document);
    for (const auto& item : document.items()) {
      require_id(root[item.key()], item.key(), root[item.key()].integer(), tokenizer);
      AddedToken token;
      token.content = item.key();
      if (!tokenizer.add_token(token)) {
        root[item.key()].fail("it is not in the vocabulary");
      }
    }
  }
}

} // namespace rora::detail
