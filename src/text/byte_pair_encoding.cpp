#include "text/byte_pair_encoding.h"

#include "checkpoint/json.h"
#include "checkpoint/quote.h"
#include "text/byte_fallback.h"
#include "text/json_field.h"
#include "text/utf8.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <functional>
#include <limits>
#include <queue>
#include <tuple>
#include <utility>

namespace rora::detail {

namespace {

constexpr size_t kNone = std::numeric_limits<size_t>::max();

/// A token of a piece while it is merged, in a list linked by index.
struct Symbol {
  int64_t id;
  size_t previous;
  size_t next;
  bool merged_away = false;
};

/// A merge of the symbol at `position` with the next one; it is out of date once either has been merged otherwise.
struct Candidate {
  int64_t rank;
  size_t position;
  int64_t id;

  bool operator>(const Candidate& other) const {
    return std::tie(rank, position) > std::tie(other.rank, other.position);
  }
};

uint64_t pair_key(int64_t left, int64_t right) {
  return static_cast<uint64_t>(left) << 32 | static_cast<uint64_t>(right);
}

void require_empty(const JsonField& field) {
  if (!field.is_null() && !field.string().empty()) {
    field.fail("expected null, found " + quote(field.string()));
  }
}

std::pair<std::string, std::string> merge_from_json(const JsonField& field) {
  if (field.is_array()) {
    const std::vector<JsonField> pair = field.elements();
    if (pair.size() != 2) {
      field.fail("expected two tokens, found " + std::to_string(pair.size()));
    }
    return {pair[0].string(), pair[1].string()};
  }
  const std::string text = field.string();
  const size_t space = text.find(' ');
  if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
    field.fail("expected two tokens with one space between, found " + quote(text));
  }
  return {text.substr(0, space), text.substr(space + 1)};
}

} // namespace

BytePairEncoding::BytePairEncoding(const JsonField& field) {
  if (!field["type"].is_null() && field["type"].string() != "BPE") {
    field["type"].fail("expected BPE, found " + quote(field["type"].string()));
  }
  field.allow_only(
      {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback",
       "ignore_merges", "vocab", "merges"});
  const JsonField dropout = field["dropout"];
  if (!dropout.is_null() && !(dropout.value().is_number() && dropout.value().get<double>() == 0)) {
    dropout.fail("expected null, found " + shown(dropout.value()));
  }
  require_empty(field["continuing_subword_prefix"]);
  require_empty(field["end_of_word_suffix"]);
  fuse_unknown_ = field["fuse_unk"].boolean_or(false);
  byte_fallback_ = field["byte_fallback"].boolean_or(false);
  ignore_merges_ = field["ignore_merges"].boolean_or(false);
  read_vocabulary(field["vocab"]);
  read_merges(field["merges"]);
  for (size_t byte = 0; byte < byte_ids_.size(); ++byte) {
    byte_ids_[byte] = id(byte_token(static_cast<unsigned char>(byte)));
  }
  const JsonField unknown = field["unk_token"];
  if (!unknown.is_null()) {
    unknown_id_ = id(unknown.string());
    if (!unknown_id_) {
      unknown.fail(quote(unknown.string()) + " is not in the vocabulary");
    }
  }
}

void BytePairEncoding::read_vocabulary(const JsonField& field) {
  const nlohmann::json& members = field.object();
  ids_.reserve(members.size());
  tokens_.reserve(members.size());
  for (const auto& [token, value] : members.items()) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() >= std::numeric_limits<int32_t>::max()) {
      field[token].fail("expected an id that fits into 31 bits, found " + shown(value));
    }
    const auto id = value.get<int64_t>();
    const auto entry = ids_.emplace(token, id).first;
    if (const auto [other, is_new] = tokens_.emplace(id, &entry->first); !is_new) {
      field[token].fail("the id " + std::to_string(id) + " is also that of " + quote(*other->second));
    }
    end_id_ = std::max(end_id_, id + 1);
  }
}

void BytePairEncoding::read_merges(const JsonField& field) {
  const std::vector<JsonField> merges = field.elements();
  if (merges.empty()) {
    field.fail("expected at least one merge, found none");
  }
  merges_.reserve(merges.size());
  int64_t rank = 0;
  for (const JsonField& element : merges) {
    const auto [left, right] = merge_from_json(element);
    const std::string both = left + right;
    for (const std::string* token : {&left, &right, &both}) {
      if (!ids_.contains(*token)) {
        element.fail(quote(*token) + " is not in the vocabulary");
      }
    }
    merges_.insert_or_assign(pair_key(*id(left), *id(right)), Merge{rank++, *id(both)});
  }
}

std::optional<int64_t> BytePairEncoding::id(std::string_view token) const {
  const auto entry = ids_.find(token);
  return entry == ids_.end() ? std::nullopt : std::optional<int64_t>(entry->second);
}

const std::string* BytePairEncoding::token(int64_t id) const {
  const auto entry = tokens_.find(id);
  return entry == tokens_.end() ? nullptr : entry->second;
}

int64_t BytePairEncoding::size() const {
  return static_cast<int64_t>(ids_.size());
}

int64_t BytePairEncoding::end_id() const {
  return end_id_;
}

const BytePairEncoding::Merge* BytePairEncoding::merge(int64_t left, int64_t right) const {
  const auto entry = merges_.find(pair_key(left, right));
  return entry == merges_.end() ? nullptr : &entry->second;
}

std::vector<int64_t> BytePairEncoding::characters(std::string_view piece) const {
  std::vector<int64_t> ids;
  ids.reserve(piece.size());
  // An unknown token waits for the next known character; tokens of bytes overtake it, as in the library that defines
  // the format.
  bool unknown_waits = false;
  for (size_t offset = 0, length = 0; offset < piece.size(); offset += length) {
    length = character_length(piece, offset);
    const std::string_view character = piece.substr(offset, length);
    if (const std::optional<int64_t> known = id(character)) {
      if (unknown_waits) {
        ids.push_back(*unknown_id_);
        unknown_waits = false;
      }
      ids.push_back(*known);
      continue;
    }
    const auto byte_id = [&](char byte) { return byte_ids_[static_cast<unsigned char>(byte)]; };
    if (byte_fallback_ &&
        std::all_of(character.begin(), character.end(), [&](char byte) { return byte_id(byte).has_value(); })) {
      for (const char byte : character) {
        ids.push_back(*byte_id(byte));
      }
      continue;
    }
    if (unknown_id_) {
      if (unknown_waits && !fuse_unknown_) {
        ids.push_back(*unknown_id_);
      }
      unknown_waits = true;
    }
  }
  if (unknown_waits) {
    ids.push_back(*unknown_id_);
  }
  return ids;
}

void BytePairEncoding::encode(std::string_view piece, std::vector<int64_t>& ids) const {
  if (ignore_merges_) {
    if (const std::optional<int64_t> whole = id(piece)) {
      ids.push_back(*whole);
      return;
    }
  }
  std::vector<Symbol> symbols;
  for (const int64_t id : characters(piece)) {
    const size_t position = symbols.size();
    symbols.push_back({id, position == 0 ? kNone : position - 1, position + 1});
  }
  if (symbols.empty()) {
    return;
  }
  symbols.back().next = kNone;

  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates;
  const auto propose = [&](size_t position) {
    const Symbol& symbol = symbols[position];
    if (symbol.next == kNone) {
      return;
    }
    if (const Merge* found = merge(symbol.id, symbols[symbol.next].id)) {
      candidates.push({found->rank, position, found->id});
    }
  };
  for (size_t position = 0; position + 1 < symbols.size(); ++position) {
    propose(position);
  }
  while (!candidates.empty()) {
    const Candidate best = candidates.top();
    candidates.pop();
    Symbol& left = symbols[best.position];
    if (left.merged_away || left.next == kNone) {
      continue;
    }
    Symbol& right = symbols[left.next];
    const Merge* const current = merge(left.id, right.id);
    // The id alone tells whether a candidate is up to date, as in the library that defines the format.
    if (current == nullptr || current->id != best.id) {
      continue;
    }
    left.id = best.id;
    left.next = right.next;
    right.merged_away = true;
    if (left.next != kNone) {
      symbols[left.next].previous = best.position;
    }
    if (left.previous != kNone) {
      propose(left.previous);
    }
    propose(best.position);
  }
  for (size_t position = 0; position != kNone; position = symbols[position].next) {
    ids.push_back(symbols[position].id);
  }
}

} // namespace rora::detail
