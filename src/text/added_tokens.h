#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace rora::detail {

class JsonField;

/// A token that is found in the text before the model sees it.
struct AddedToken {
  int64_t id = 0;
  std::string content;
  bool single_word = false; ///< found only where no word goes on to its left or right
  bool lstrip = false; ///< takes the white space to its left with it
  bool rstrip = false; ///< takes the white space to its right with it
  bool normalized = true; ///< found in the normalized text, and spelled as the normalizer spells it
  bool special = false; ///< left out by decoding with `skip_special_tokens`
};

/// The fields of an added token but its id.
AddedToken added_token_from_json(const JsonField& field);

/// Finds tokens in a text: the leftmost first, of those that begin there the longest.
class AddedTokenFinder {
 public:
  /// A part of the text, from byte `begin` to `end`, that is the token `id` or holds none.
  struct Part {
    size_t begin;
    size_t end;
    std::optional<int64_t> id;
  };

  AddedTokenFinder();

  /// Looks for `token` where the text has `spelling`. Returns false where another token has this spelling.
  bool add(const AddedToken& token, const std::string& spelling);

  std::vector<Part> find(std::string_view text) const;

 private:
  struct Node {
    std::map<unsigned char, size_t> children;
    std::optional<size_t> token; // that is spelled by the path from the root
  };

  std::optional<size_t> longest_at(std::string_view text, size_t offset) const;

  std::vector<AddedToken> tokens_;
  std::vector<std::string> spellings_;
  std::vector<Node> nodes_; // a trie; the first is its root
};

} // namespace rora::detail
