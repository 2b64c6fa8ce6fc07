#pragma once

#include <string>

namespace rora::detail {

class JsonField;

/// Where the sign for a space is put before a text that does not begin with it.
enum class PrependScheme { kAlways, kFirst, kNever };

/// The fields of tokenizer.json's Metaspace, which is a pre-tokenizer and a decoder.
struct Metaspace {
  explicit Metaspace(const JsonField& field);

  std::string replacement; ///< the character that stands for a space
  PrependScheme prepend_scheme;
  bool split;
};

} // namespace rora::detail
