#pragma once

#include "text/jinja/nodes.h"

#include <initializer_list>
#include <utility>

namespace rora::detail::jinja {

/// Filters by name; `find_filter` asks each list.
using FilterList = std::initializer_list<std::pair<const char*, Filter>>;
const FilterList& text_filters();
const FilterList& number_filters();
const FilterList& sequence_filters();

/// Of an argument: null where it is absent or none.
std::optional<std::string> optional_text(Run& run, const Value& value);
/// Throws `Failure` for what is no integer; `absent` where it is absent or none.
int64_t integer_or(const Value& value, int64_t absent);

} // namespace rora::detail::jinja
