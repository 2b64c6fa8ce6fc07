#pragma once

#include <memory>
#include <string>
#include <vector>

namespace rora::detail {

class JsonField;

/// A part of the text within which the model merges.
struct Piece {
  std::string text;
  bool begins_text; ///< whether it begins where the whole text begins
};

/// Cuts pieces into smaller ones. None that it returns is empty.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual std::vector<Piece> split(std::vector<Piece> pieces) const = 0;

  /// Whether it asks if a piece begins the text.
  virtual bool depends_on_start() const {
    return false;
  }
};

/// The field `pre_tokenizer`; nullptr where it is null. Throws `FormatError` for what is not supported.
std::unique_ptr<PreTokenizer> pre_tokenizer_from_json(const JsonField& field);

} // namespace rora::detail
