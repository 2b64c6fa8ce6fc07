#include "text/json_tokenizer.h"

#include "checkpoint/quote.h"
#include "text/json_field.h"
#include "text/limits.h"
#include "text/utf8.h"

#include <nlohmann/json.hpp>

#include <c10/util/Exception.h>

#include <algorithm>

namespace rora::detail {

namespace {

void require_null(const JsonField& field) {
  if (!field.is_null()) {
    field.fail("expected null: it is not supported");
  }
}

} // namespace

JsonTokenizer::JsonTokenizer(const JsonField& field) : model_(field["model"]) {
  field.allow_only(
      {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder",
       "model"});
  if (!field["version"].is_null() && field["version"].string() != "1.0") {
    field["version"].fail("expected 1.0, found " + quote(field["version"].string()));
  }
  require_null(field["truncation"]);
  require_null(field["padding"]);
  normalizer_ = normalizer_from_json(field["normalizer"]);
  pre_tokenizer_ = pre_tokenizer_from_json(field["pre_tokenizer"]);
  decoder_ = decoder_from_json(field["decoder"]);
  if (pre_tokenizer_ != nullptr && pre_tokenizer_->depends_on_start() && normalizer_ != nullptr &&
      !normalizer_->keeps_start()) {
    field["pre_tokenizer"].fail("prepend_scheme first is not supported with a normalizer that adds or removes text");
  }
  read_added_tokens(field["added_tokens"]);
  read_post_processor(field["post_processor"]);
}

void JsonTokenizer::read_added_tokens(const JsonField& field) {
  if (field.is_null()) {
    return;
  }
  int64_t next_id = model_.size();
  for (const JsonField& element : field.elements()) {
    element.allow_only({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
    AddedToken token = added_token_from_json(element);
    token.id = element["id"].integer();
    // The library that defines the format numbers them itself; a file that says otherwise would be read in two ways.
    const std::optional<int64_t> known = model_.id(token.content);
    const int64_t expected = known ? *known : next_id++;
    if (token.id != expected) {
      element["id"].fail(
          "expected " + std::to_string(expected) + " for " + quote(token.content) + ", found " +
          std::to_string(token.id));
    }
    if (!known && model_.token(token.id) != nullptr) {
      element["id"].fail("it is also that of " + quote(*model_.token(token.id)));
    }
    std::string spelling = token.normalized && normalizer_ ? normalizer_->normalize(token.content) : token.content;
    if (spelling.size() > kMaxAddedTokenBytes) {
      element["content"].fail("it is longer than 1024 bytes once normalized");
    }
    if (!insert(token, std::move(spelling))) {
      element["content"].fail(quote(token.content) + " is spelled like another added token");
    }
  }
}

bool JsonTokenizer::insert(const AddedToken& token, std::string spelling) {
  if (!added_ids_.emplace(token.content, token.id).second ||
      !(token.normalized ? normalized_tokens_ : raw_tokens_).add(token, spelling)) {
    return false;
  }
  added_tokens_[token.id] = {std::move(spelling), token.special};
  return true;
}

std::optional<std::string> JsonTokenizer::add_token(AddedToken token) {
  if (added_ids_.contains(token.content)) {
    return std::nullopt;
  }
  const std::optional<int64_t> id = model_.id(token.content);
  if (!id) {
    return quote(token.content) + " is not in the vocabulary";
  }
  token.id = *id;
  std::string spelling = token.normalized && normalizer_ ? normalizer_->normalize(token.content) : token.content;
  if (spelling.size() > kMaxAddedTokenBytes || !insert(token, std::move(spelling))) {
    return quote(token.content) + " is spelled like another added token, or longer than 1024 bytes";
  }
  return std::nullopt;
}

void JsonTokenizer::read_post_processor(const JsonField& field) {
  if (field.is_null()) {
    return;
  }
  const std::string type = field["type"].string();
  if (type == "Sequence") {
    field.allow_only({"type", "processors"});
    for (const JsonField& element : field["processors"].elements()) {
      element.object();
      read_post_processor(element);
    }
  } else if (type == "TemplateProcessing") {
    read_template(field);
  } else if (type == "ByteLevel") {
    field.allow_only({"type", "add_prefix_space", "trim_offsets", "use_regex"}); // it changes offsets, not ids
  } else {
    field["type"].fail("expected Sequence, TemplateProcessing or ByteLevel, found " + quote(type));
  }
}

void JsonTokenizer::read_template(const JsonField& field) {
  field.allow_only({"type", "single", "pair", "special_tokens"}); // pair is for two texts, which no one asks for here
  if (has_template_) {
    field.fail("a second template is not supported");
  }
  has_template_ = true;
  bool has_text = false;
  for (const JsonField& piece : field["single"].elements()) {
    piece.allow_only({"SpecialToken", "Sequence"});
    if (!piece["Sequence"].is_null()) {
      if (has_text || piece["Sequence"]["id"].string() != "A") {
        piece.fail("expected the sequence A, and once");
      }
      has_text = true;
      continue;
    }
    const std::string name = piece["SpecialToken"]["id"].string();
    const JsonField ids = field["special_tokens"][name]["ids"];
    for (const JsonField& id : ids.elements()) {
      if (!added_tokens_.contains(id.integer()) && model_.token(id.integer()) == nullptr) {
        id.fail("expected an id of the vocabulary, found " + std::to_string(id.integer()));
      }
      (has_text ? suffix_ : prefix_).push_back(id.integer());
    }
  }
  if (!has_text) {
    field["single"].fail("it has no place for the text");
  }
}

std::vector<int64_t> JsonTokenizer::encode(std::string_view text, bool add_special_tokens) const {
  check_text(text);
  const std::string valid = to_valid_utf8(text);
  std::vector<int64_t> ids;
  if (add_special_tokens) {
    ids = prefix_;
  }
  for (const AddedTokenFinder::Part& part : raw_tokens_.find(valid)) {
    if (part.id) {
      ids.push_back(*part.id);
    } else {
      encode_text(std::string_view(valid).substr(part.begin, part.end - part.begin), part.begin == 0, ids);
    }
  }
  if (add_special_tokens) {
    ids.insert(ids.end(), suffix_.begin(), suffix_.end());
  }
  return ids;
}

void JsonTokenizer::encode_text(std::string_view text, bool begins_text, std::vector<int64_t>& ids) const {
  const std::string normalized = normalizer_ ? normalizer_->normalize(std::string(text)) : std::string(text);
  for (const AddedTokenFinder::Part& part : normalized_tokens_.find(normalized)) {
    if (part.id) {
      ids.push_back(*part.id);
    } else {
      encode_normalized(
          std::string_view(normalized).substr(part.begin, part.end - part.begin), begins_text && part.begin == 0, ids);
    }
  }
}

void JsonTokenizer::encode_normalized(std::string_view text, bool begins_text, std::vector<int64_t>& ids) const {
  if (!pre_tokenizer_) {
    model_.encode(text, ids);
    return;
  }
  for (const Piece& piece : pre_tokenizer_->split({{std::string(text), begins_text}})) {
    model_.encode(piece.text, ids);
  }
}

std::string JsonTokenizer::decode(c10::ArrayRef<int64_t> ids, bool skip_special_tokens) const {
  std::vector<std::string> tokens;
  tokens.reserve(ids.size());
  for (const int64_t id : ids) {
    if (const auto added = added_tokens_.find(id); added != added_tokens_.end()) {
      if (!(skip_special_tokens && added->second.special)) {
        tokens.push_back(added->second.spelling);
      }
    } else if (const std::string* token = model_.token(id)) {
      tokens.push_back(*token);
    } else {
      C10_THROW_ERROR(IndexError, "the token id " + std::to_string(id) + " is not in the vocabulary");
    }
  }
  std::string text;
  if (decoder_) {
    for (const std::string& part : decoder_->decode(std::move(tokens))) {
      text += part;
    }
    return text;
  }
  for (size_t index = 0; index < tokens.size(); ++index) {
    text += (index == 0 ? "" : " ") + tokens[index];
  }
  return text;
}

int64_t JsonTokenizer::vocab_size() const {
  return added_tokens_.empty() ? model_.end_id() : std::max(model_.end_id(), added_tokens_.rbegin()->first + 1);
}

std::optional<int64_t> JsonTokenizer::token_id(std::string_view token) const {
  const auto added = added_ids_.find(token);
  return added == added_ids_.end() ? model_.id(token) : std::optional<int64_t>(added->second);
}

std::unique_ptr<JsonTokenizer> load_json_tokenizer(const std::filesystem::path& path) {
  const nlohmann::json document = read_json_object(path);
  return std::make_unique<JsonTokenizer>(JsonField(path, document));
}

} // namespace rora::detail
