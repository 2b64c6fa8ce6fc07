#pragma once

#include <string>
#include <string_view>

namespace rora::detail {

/// Unicode's normalization form C of well-formed `text` (technical report 15), by the tables of the library that
/// defines tokenizer.json.
std::string to_nfc(std::string_view text);

} // namespace rora::detail
