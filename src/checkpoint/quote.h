#pragma once

#include <string>
#include <string_view>

namespace rora::detail {

/// `text` in single quotes for an error message; a long text, which a hostile file may hold, is cut.
std::string quote(std::string_view text);

/// The first bytes of `text`, cut between characters of UTF-8 and marked with "..." if it was longer than `limit`.
std::string shortened(std::string_view text, size_t limit);

} // namespace rora::detail
