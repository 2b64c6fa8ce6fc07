#include "text/added_tokens.h"

#include "text/json_field.h"
#include "text/limits.h"
#include "text/pattern.h"
#include "text/unicode_additions.h"
#include "text/utf8.h"

#include <algorithm>

namespace rora::detail {

namespace {

bool has_word_character(std::string_view character) {
  static const Pattern word = Pattern::pcre2(
      "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}" + unicode_additions("L") + unicode_additions("M") +
      unicode_additions("Nd") + "]");
  const std::vector<Span> spans = word.find(character);
  return !spans.empty() && spans.front().matched;
}

bool word_ends_at(std::string_view text, size_t offset) {
  if (offset == 0) {
    return false;
  }
  size_t begin = offset - 1;
  while ((static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) {
    --begin;
  }
  return has_word_character(text.substr(begin, offset - begin));
}

bool word_begins_at(std::string_view text, size_t offset) {
  return offset < text.size() && has_word_character(text.substr(offset, character_length(text, offset)));
}

} // namespace

AddedToken added_token_from_json(const JsonField& field) {
  AddedToken token;
  token.content = field["content"].string();
  if (token.content.empty()) {
    field["content"].fail("an empty token is not supported");
  }
  if (token.content.size() > kMaxAddedTokenBytes) {
    field["content"].fail("a token of more than 1024 bytes is not supported");
  }
  token.single_word = field["single_word"].boolean_or(token.single_word);
  token.lstrip = field["lstrip"].boolean_or(token.lstrip);
  token.rstrip = field["rstrip"].boolean_or(token.rstrip);
  token.normalized = field["normalized"].boolean_or(token.normalized);
  token.special = field["special"].boolean_or(token.special);
  return token;
}

AddedTokenFinder::AddedTokenFinder() : nodes_(1) {}

bool AddedTokenFinder::add(const AddedToken& token, const std::string& spelling) {
  size_t node = 0;
  for (const char byte : spelling) {
    const auto [child, is_new] = nodes_[node].children.try_emplace(static_cast<unsigned char>(byte), nodes_.size());
    node = child->second;
    if (is_new) {
      nodes_.emplace_back();
    }
  }
  if (nodes_[node].token) {
    return false;
  }
  nodes_[node].token = tokens_.size();
  tokens_.push_back(token);
  spellings_.push_back(spelling);
  return true;
}

std::optional<size_t> AddedTokenFinder::longest_at(std::string_view text, size_t offset) const {
  std::optional<size_t> longest;
  size_t node = 0;
  for (; offset < text.size(); ++offset) {
    const auto child = nodes_[node].children.find(static_cast<unsigned char>(text[offset]));
    if (child == nodes_[node].children.end()) {
      break;
    }
    node = child->second;
    if (nodes_[node].token) {
      longest = nodes_[node].token;
    }
  }
  return longest;
}

std::vector<AddedTokenFinder::Part> AddedTokenFinder::find(std::string_view text) const {
  std::vector<Part> parts;
  size_t covered = 0;
  for (size_t offset = 0; offset < text.size() && !tokens_.empty();) {
    const std::optional<size_t> index = longest_at(text, offset);
    if (!index) {
      ++offset;
      continue;
    }
    const AddedToken& token = tokens_[*index];
    size_t begin = offset;
    size_t end = offset + spellings_[*index].size();
    offset = end;
    if (token.single_word && (word_ends_at(text, begin) || word_begins_at(text, end))) {
      continue;
    }
    if (token.lstrip) {
      begin = std::max(trailing_white_space(text.substr(0, begin)), covered);
    }
    if (token.rstrip) {
      end += leading_white_space(text.substr(end));
    }
    if (covered < begin) {
      parts.push_back({covered, begin, std::nullopt});
    }
    parts.push_back({begin, end, token.id});
    covered = end;
  }
  if (covered < text.size()) {
    parts.push_back({covered, text.size(), std::nullopt});
  }
  return parts;
}

} // namespace rora::detail
