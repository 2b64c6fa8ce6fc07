#pragma once

#include "text/jinja/value.h"

#include <string>
#include <string_view>
#include <vector>

namespace rora::detail::jinja {

enum class TokenKind {
  kData, ///< text between the tags
  kBlockBegin, ///< {%
  kBlockEnd,
  kVariableBegin, ///< {{
  kVariableEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd, ///< of the template
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  std::string text; ///< of a string: its value
  Place place;
};

/// The tokens of a template, with white space taken away as `trim_blocks` and `lstrip_blocks`, the signs in the tags
/// and Jinja's defaults say. Throws `Failure`.
std::vector<Token> tokenize(std::string_view source);

} // namespace rora::detail::jinja
