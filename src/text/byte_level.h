#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace rora::detail {

/// GPT-2's alphabet: a printable character for each byte, those of Latin-1 for themselves and U+0100 on for the rest.
const std::string& byte_level_character(unsigned char byte);

/// `bytes` in that alphabet.
std::string to_byte_level(std::string_view bytes);

/// The bytes that `text` stands for; nothing where it has a character outside the alphabet.
std::optional<std::string> from_byte_level(std::string_view text);

} // namespace rora::detail
