#pragma once

#include <string>
#include <string_view>

namespace rora::detail {

/// A regular expression in Oniguruma's Ruby syntax in that of PCRE2, so that both match the same under PCRE2's UTF and
/// UCP. The engines part in many corners (`\s` takes U+180E in PCRE2, `\w` is another set, `{1,3}+` is not possessive
/// in Ruby, script names are read as extensions ...): what cannot be carried over exactly is refused by
/// `c10::ValueError`, which names it.
std::string to_pcre2_syntax(std::string_view expression);

} // namespace rora::detail
