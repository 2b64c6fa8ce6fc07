#pragma once

#include <memory>
#include <string>

namespace rora::detail {

class JsonField;

/// Rewrites a text before it is cut into pieces.
class Normalizer {
 public:
  virtual ~Normalizer() = default;
  virtual std::string normalize(std::string text) const = 0;

  /// Whether the first character of every result stands for that of its text.
  virtual bool keeps_start() const = 0;
};

/// The field `normalizer`; nullptr where it is null. Throws `FormatError` for what is not supported.
std::unique_ptr<Normalizer> normalizer_from_json(const JsonField& field);

} // namespace rora::detail
