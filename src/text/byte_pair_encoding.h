#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace rora::detail {

class JsonField;

/// Byte pair encoding as tokenizer.json's model of type BPE: the characters of a piece are looked up in the vocabulary,
/// then neighbours are merged, the merge of lowest rank first and of those the leftmost. A piece of n characters takes
/// O(n log n).
class BytePairEncoding {
 public:
  /// The field `model`. Throws `FormatError` for what is malformed or not supported.
  explicit BytePairEncoding(const JsonField& field);

  /// Appends the ids of `piece`. A character outside the vocabulary becomes the tokens of its bytes with byte_fallback,
  /// else the unknown token; where there is neither it is left out, as by the library that defines the format.
  void encode(std::string_view piece, std::vector<int64_t>& ids) const;

  std::optional<int64_t> id(std::string_view token) const;

  /// The spelling of `id`; nullptr outside the vocabulary.
  const std::string* token(int64_t id) const;

  /// How many tokens there are, and one more than the largest id.
  int64_t size() const;
  int64_t end_id() const;

 private:
  struct Merge {
    int64_t rank;
    int64_t id; // of the two tokens in one
  };
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const {
      return std::hash<std::string_view>()(text);
    }
  };

  void read_vocabulary(const JsonField& field);
  void read_merges(const JsonField& field);
  std::vector<int64_t> characters(std::string_view piece) const;
  const Merge* merge(int64_t left, int64_t right) const;

  std::unordered_map<std::string, int64_t, Hash, std::equal_to<>> ids_;
  std::unordered_map<int64_t, const std::string*> tokens_; // point into ids_
  std::unordered_map<uint64_t, Merge> merges_; // by the pair's ids
  std::array<std::optional<int64_t>, 256> byte_ids_;
  std::optional<int64_t> unknown_id_;
  int64_t end_id_ = 0;
  bool fuse_unknown_ = false;
  bool byte_fallback_ = false;
  bool ignore_merges_ = false;
};

} // namespace rora::detail
