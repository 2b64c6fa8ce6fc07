#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace rora::detail {

/// What a byte that belongs to no character is decoded to, U+FFFD.
inline constexpr const char* kReplacementCharacter = "\xEF\xBF\xBD";

/// The token of a byte, `<0x0A>`.
std::string byte_token(unsigned char byte);

/// The byte of such a token, whose digits may be of either case.
std::optional<unsigned char> byte_of_token(std::string_view token);

} // namespace rora::detail
