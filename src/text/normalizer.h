#pragma once

#include "text/json_field.h"

#include <cstddef>
#include <memory>
#include <string>

namespace rora::detail {

/// Rewrites a text before it is cut into pieces. Throws `FormatError` where it makes far more of it.
class Normalizer {
 public:
  explicit Normalizer(const JsonField& field) : place_(field.place()) {}
  virtual ~Normalizer() = default;

  std::string normalize(const std::string& text) const {
    return apply(text, text.size());
  }

  /// `normalize` of what others have made of `original` bytes.
  virtual std::string apply(std::string text, size_t original) const = 0;

  /// Whether the first character of every result stands for that of its text.
  virtual bool keeps_start() const = 0;

 protected:
  const JsonPlace& place() const {
    return place_;
  }

 private:
  JsonPlace place_;
};

/// The field `normalizer`; nullptr where it is null. Throws `FormatError` for what is not supported.
std::unique_ptr<Normalizer> normalizer_from_json(const JsonField& field);

} // namespace rora::detail
