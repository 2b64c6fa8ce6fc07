#pragma once

#include <string_view>

namespace rora::detail {

/// Throws `c10::ValueError` unless sentencepiece can normalise any text with this `precompiled_charsmap` without
/// reading or writing outside of it: it trusts what a model brings. The content is a little-endian uint32, the bytes of
/// a Darts-clone double array that spells what is replaced, that array, and the replacements, each ended by a zero.
/// Takes time in proportion to the array.
void check_charsmap(std::string_view charsmap);

} // namespace rora::detail
