#pragma once

#include "text/json_field.h"

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace rora::detail {

/// A part of a text, from byte `begin` to `end`, that a pattern matched or left over.
struct Span {
  size_t begin;
  size_t end;
  bool matched;
};

/// What a component of tokenizer.json looks for in a text: a literal string or a regular expression.
class Pattern {
 public:
  /// A string to be found as it is.
  static Pattern literal(std::string text);

  /// A regular expression in Oniguruma's Ruby syntax, which is tokenizer.json's. Only what has an exact counterpart in
  /// PCRE2 is taken; throws `c10::ValueError` for the rest.
  static Pattern regex(std::string_view expression);

  /// A regular expression in PCRE2's syntax. Throws `c10::ValueError`.
  static Pattern pcre2(std::string_view expression);

  /// The field `{"String": ...}` or `{"Regex": ...}`. Throws `FormatError`.
  static Pattern from_json(const JsonField& field);

  /// Whether it matches the empty string.
  bool matches_empty() const;

  /// Every match in well-formed UTF-8 `text` and what lies between, in order; together they cover the text. Throws
  /// `FormatError`, or `std::runtime_error` for an expression of no file, where matching takes more time or memory than
  /// any sensible expression does.
  std::vector<Span> find(std::string_view text) const;

 private:
  Pattern() = default;
  std::vector<Span> find_literal(std::string_view text) const;
  std::vector<Span> find_regex(std::string_view text) const;

  std::string literal_;
  std::shared_ptr<const void> code_; // pcre2_code
  std::optional<JsonPlace> place_; // of the expression, where it stands in a file
};

} // namespace rora::detail
