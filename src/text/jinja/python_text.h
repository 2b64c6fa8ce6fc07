#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rora::detail::jinja {

// Python's functions of text, over well-formed UTF-8.

/// Python's `repr` of a string.
std::string python_repr(std::string_view text);

/// The number of characters, and the byte at which the i-th begins; i may be one past the last.
size_t count_characters(std::string_view text);
size_t offset_of(std::string_view text, size_t character);
std::vector<std::string> characters_of(std::string_view text);

/// Python's white space: Unicode's, and the information separators.
bool is_python_space(char32_t code_point);

/// `text.strip(characters)`, at one or both ends; white space where `characters` is null.
std::string strip(std::string_view text, const std::string* characters, bool left, bool right);

/// `upper`, `lower`, `title` and `capitalize`. Throw `Failure` for a letter whose other form is several characters.
std::string upper(std::string_view text);
std::string lower(std::string_view text);
std::string title(std::string_view text);
std::string capitalize(std::string_view text);

bool is_upper_letter(char32_t code_point);
bool is_lower_letter(char32_t code_point);
/// Python's `str.isalpha`, `str.isdecimal` and `str.isdigit` of a character. The last throws `Failure` for numbers that
/// are no decimal digits, of which Python takes some.
bool is_letter(char32_t code_point);
bool is_decimal(char32_t code_point);
bool is_digit(char32_t code_point);

/// `text.find(part, begin)`, in time that grows with the lengths' sum alone.
size_t find_linear(std::string_view text, std::string_view part, size_t begin);

/// `text.replace(old, new, count)`; `count` below 0: all.
std::string replace(std::string_view text, std::string_view old, std::string_view with, int64_t count);

/// `text.split(separator, limit)` or `rsplit`; white space where `separator` is null, no limit below 0.
std::vector<std::string> split(std::string_view text, const std::string* separator, int64_t limit, bool from_right);
/// `text.splitlines(keep_ends)`.
std::vector<std::string> split_lines(std::string_view text, bool keep_ends);

} // namespace rora::detail::jinja
