#include "text/metaspace.h"

#include "checkpoint/quote.h"
#include "text/json_field.h"
#include "text/utf8.h"

namespace rora::detail {

namespace {

PrependScheme prepend_scheme_from_json(const JsonField& field) {
  const std::string name = field.is_null() ? "always" : field.string();
  if (name == "always") {
    return PrependScheme::kAlways;
  }
  if (name == "first") {
    return PrependScheme::kFirst;
  }
  if (name == "never") {
    return PrependScheme::kNever;
  }
  field.fail("expected always, first or never, found " + quote(name));
}

} // namespace

Metaspace::Metaspace(const JsonField& field) {
  field.allow_only({"type", "replacement", "add_prefix_space", "prepend_scheme", "split", "str_rep"});
  replacement = field["replacement"].string();
  if (replacement.empty() || replacement.size() != character_length(replacement, 0)) {
    field["replacement"].fail("expected one character, found " + quote(replacement));
  }
  prepend_scheme = prepend_scheme_from_json(field["prepend_scheme"]);
  split = field["split"].boolean_or(true);
  // Older files say no more than add_prefix_space.
  if (!field["add_prefix_space"].boolean_or(true)) {
    if (!field["prepend_scheme"].is_null() && prepend_scheme != PrependScheme::kNever) {
      field["add_prefix_space"].fail("it is false, and prepend_scheme is not never");
    }
    prepend_scheme = PrependScheme::kNever;
  }
}

} // namespace rora::detail
