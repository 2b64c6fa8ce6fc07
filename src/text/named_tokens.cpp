#include "text/named_tokens.h"

#include "checkpoint/quote.h"
#include "text/json_field.h"
#include "text/json_tokenizer.h"

#include <nlohmann/json.hpp>

#include <charconv>
#include <string>

namespace rora::detail {
namespace {

/// A token, as its text or as an added token's object.
AddedToken token_of(const JsonField& field, bool is_special) {
  AddedToken token;
  if (field.is_string()) {
    token.content = field.string();
    token.special = is_special;
  } else {
    field.object();
    token = added_token_from_json(field);
    token.special = token.special || is_special;
  }
  const bool says = !field.is_string() && !field["normalized"].is_null();
  token.normalized = says ? token.normalized : !token.special;
  return token;
}

void add(const JsonField& field, bool is_special, JsonTokenizer& tokenizer) {
  if (field.is_null() || (field.is_string() && field.string().empty())) {
    return;
  }
  if (const auto problem = tokenizer.add_token(token_of(field, is_special))) {
    field.fail(*problem);
  }
}

void add_all(const JsonField& field, JsonTokenizer& tokenizer) {
  if (field.is_null()) {
    return;
  }
  if (field.is_array()) {
    for (const JsonField& each : field.elements()) {
      add(each, /*is_special=*/true, tokenizer);
    }
    return;
  }
  for (const auto& item : field.object().items()) { // names that processors ask for
    add(field[item.key()], /*is_special=*/true, tokenizer);
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
    require_id(each, token_of(each, /*is_special=*/false).content, id, tokenizer);
    add(each, /*is_special=*/false, tokenizer);
  }
}

/// The tokens that a tokenizer_config.json or a special_tokens_map.json names. Returns whether they have ids there.
bool add_from(const std::filesystem::path& path, JsonTokenizer& tokenizer) {
  const nlohmann::json document = read_json_object(path);
  const JsonField root(path, document);
  add_by_id(root["added_tokens_decoder"], tokenizer);
  for (const char* name :
       {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}) {
    add(root[name], /*is_special=*/true, tokenizer);
  }
  add_all(root["additional_special_tokens"], tokenizer);
  add_all(root["extra_special_tokens"], tokenizer);
  return !root["added_tokens_decoder"].is_null();
}

/// The tokens of an added_tokens.json, by their ids.
void add_from_list(const std::filesystem::path& path, JsonTokenizer& tokenizer) {
  const nlohmann::json document = read_json_object(path);
  const JsonField root(path, document);
  for (const auto& item : document.items()) {
    const JsonField id = root[item.key()];
    require_id(id, item.key(), id.integer(), tokenizer);
    AddedToken token;
    token.content = item.key();
    if (const auto problem = tokenizer.add_token(token)) {
      id.fail(*problem);
    }
  }
}

} // namespace

void add_named_tokens(const std::filesystem::path& folder, JsonTokenizer& tokenizer) {
  const std::filesystem::path config = folder / "tokenizer_config.json";
  if (std::filesystem::exists(config) && add_from(config, tokenizer)) {
    return; // transformers then reads no older file
  }
  if (const auto path = folder / "special_tokens_map.json"; std::filesystem::exists(path)) {
    add_from(path, tokenizer);
  }
  if (const auto path = folder / "added_tokens.json"; std::filesystem::exists(path)) {
    add_from_list(path, tokenizer);
  }
}

} // namespace rora::detail
