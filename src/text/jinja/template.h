#pragma once

#include "text/jinja/nodes.h"

#include <cstddef>
#include <ctime>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rora::detail::jinja {

/// A template in the part of Jinja that chat templates use, as transformers renders them: `trim_blocks` and
/// `lstrip_blocks` are on, nothing is escaped, lists and dictionaries cannot be changed, and `break`, `continue`,
/// `generation` and the functions `raise_exception` and `strftime_now` are there. Inheritance, imports and what else is
/// not supported are refused where they stand.
class Template {
 public:
  /// Throws `Failure` with its place.
  explicit Template(std::string_view source);

  /// Whether a `{% generation %}` block stands in it.
  bool marks_generation() const {
    return marks_generation_;
  }

  struct Rendering {
    std::string text;
    std::vector<std::pair<size_t, size_t>> generated; ///< bytes of `text` that generation blocks wrote, in order
  };

  /// The text with those names. Throws `Failure`: what a template may take is bounded by the names' size.
  Rendering render(const std::vector<std::pair<std::string, Value>>& names, std::time_t now) const;

 private:
  Block block_;
  bool marks_generation_ = false;
};

} // namespace rora::detail::jinja
