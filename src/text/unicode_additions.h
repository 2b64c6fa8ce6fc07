#pragma once

#include <string>
#include <string_view>

namespace rora::detail {

/// The characters that Unicode 15.0 to 16.0 added to a general category ("L", "Nd"), as the inside of a character
/// class. The library that defines tokenizer.json knows them; PCRE2 10.42, with Unicode 14, does not.
std::string unicode_additions(std::string_view category);

} // namespace rora::detail
