#include "text/jinja/python_text.h"

#include "text/jinja/value.h"
#include "text/pattern.h"
#include "text/utf8.h"

#include <clocale>
#include <cwctype>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>

namespace rora::detail::jinja {

namespace {

/// The C library's tables of Unicode, whatever the process's own locale is.
locale_t unicode_locale() {
  static const locale_t locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr);
  if (locale == nullptr) {
    throw Failure("the C library has no locale C.UTF-8, which letters beyond ASCII need");
  }
  return locale;
}

bool is_ascii(char32_t c) {
  return c < 0x80;
}

/// A letter's one other form.
char32_t changed_case(char32_t c, bool to_upper) {
  if (is_ascii(c)) {
    const bool changes = to_upper ? (c >= 'a' && c <= 'z') : (c >= 'A' && c <= 'Z');
    return changes ? c ^ 0x20 : c;
  }
  const auto wide = static_cast<wint_t>(c);
  const auto changed =
      static_cast<char32_t>(to_upper ? towupper_l(wide, unicode_locale()) : towlower_l(wide, unicode_locale()));
  const bool is_the_other = to_upper ? is_lower_letter(c) : is_upper_letter(c);
  // U+0130's small form is two characters, that of a sigma hangs on what follows.
  if ((changed == c && is_the_other) || (!to_upper && (c == 0x130 || c == 0x3A3))) {
    throw Failure("changing the case of '" + to_utf8(c) + "' is not supported");
  }
  return changed;
}

/// `change(code point, index)` of each character.
template <typename Change>
std::string map_characters(std::string_view text, Change change) {
  std::string mapped;
  mapped.reserve(text.size());
  for (size_t offset = 0, index = 0; offset < text.size(); offset += character_length(text, offset), ++index) {
    mapped += to_utf8(change(code_point_at(text, offset), index));
  }
  return mapped;
}

bool matches(const Pattern& pattern, char32_t c) {
  return pattern.find(to_utf8(c)).front().matched;
}

bool is_printable(char32_t c) {
  static const Pattern unprintable = Pattern::pcre2("[\\p{C}\\p{Z}]");
  return is_ascii(c) ? c >= 0x20 && c < 0x7F : !matches(unprintable, c);
}

void append_escaped(std::string& text, char32_t c) {
  std::array<char, 16> buffer{};
  const char* const format = c <= 0xFF ? "\\x%02x" : (c <= 0xFFFF ? "\\u%04x" : "\\U%08x");
  std::snprintf(buffer.data(), buffer.size(), format, static_cast<unsigned>(c));
  text += buffer.data();
}

} // namespace

std::string python_repr(std::string_view text) {
  const bool double_quotes = text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos;
  const char quote = double_quotes ? '"' : '\'';
  std::string repr(1, quote);
  for (size_t offset = 0; offset < text.size(); offset += character_length(text, offset)) {
    const char32_t c = code_point_at(text, offset);
    if (c == static_cast<unsigned char>(quote) || c == '\\') {
      repr += {'\\', static_cast<char>(c)};
    } else if (c == '\n' || c == '\r' || c == '\t') {
      repr += c == '\n' ? "\\n" : (c == '\r' ? "\\r" : "\\t");
    } else if (is_printable(c)) {
      repr += text.substr(offset, character_length(text, offset));
    } else {
      append_escaped(repr, c);
    }
  }
  return repr + quote;
}

std::string text_of(double number) {
  if (std::isnan(number)) {
    return "nan";
  }
  if (std::isinf(number)) {
    return number < 0 ? "-inf" : "inf";
  }
  // The shortest digits that read back, then Python's choice of the exponent.
  std::array<char, 64> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), number, std::chars_format::scientific);
  const std::string scientific(buffer.data(), end.ptr);
  const int exponent = std::stoi(scientific.substr(scientific.find('e') + 1));
  if (exponent < -4 || exponent >= 16) {
    return scientific;
  }
  const auto fixed_end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), number, std::chars_format::fixed);
  const std::string fixed(buffer.data(), fixed_end.ptr);
  return fixed.find('.') == std::string::npos ? fixed + ".0" : fixed;
}

size_t count_characters(std::string_view text) {
  return static_cast<size_t>(std::count_if(
      text.begin(), text.end(), [](char byte) { return (static_cast<unsigned char>(byte) & 0xC0) != 0x80; }));
}

size_t offset_of(std::string_view text, size_t character) {
  size_t offset = 0;
  for (size_t i = 0; i < character && offset < text.size(); ++i) {
    offset += character_length(text, offset);
  }
  return offset;
}

std::vector<std::string> characters_of(std::string_view text) {
  std::vector<std::string> characters;
  for (size_t offset = 0; offset < text.size();) {
    const size_t length = character_length(text, offset);
    characters.emplace_back(text.substr(offset, length));
    offset += length;
  }
  return characters;
}

bool is_python_space(char32_t code_point) {
  return is_white_space(code_point) || (code_point >= 0x1C && code_point <= 0x1F);
}

std::string strip(std::string_view text, const std::string* characters, bool left, bool right) {
  const auto is_stripped = [&](size_t offset, size_t length) {
    return characters == nullptr ? is_python_space(code_point_at(text, offset))
                                 : characters->find(text.substr(offset, length)) != std::string::npos;
  };
  size_t begin = 0;
  while (left && begin < text.size() && is_stripped(begin, character_length(text, begin))) {
    begin += character_length(text, begin);
  }
  size_t end = text.size();
  while (right && end > begin) {
    size_t last = end - 1;
    while ((static_cast<unsigned char>(text[last]) & 0xC0) == 0x80) {
      --last;
    }
    if (!is_stripped(last, end - last)) {
      break;
    }
    end = last;
  }
  return std::string(text.substr(begin, end - begin));
}

bool is_upper_letter(char32_t c) {
  return is_ascii(c) ? (c >= 'A' && c <= 'Z') : iswupper_l(static_cast<wint_t>(c), unicode_locale()) != 0;
}

bool is_lower_letter(char32_t c) {
  return is_ascii(c) ? (c >= 'a' && c <= 'z') : iswlower_l(static_cast<wint_t>(c), unicode_locale()) != 0;
}

bool is_letter(char32_t c) {
  static const Pattern letter = Pattern::pcre2("\\p{L}");
  return is_ascii(c) ? is_upper_letter(c) || is_lower_letter(c) : matches(letter, c);
}

bool is_decimal(char32_t c) {
  static const Pattern decimal = Pattern::pcre2("\\p{Nd}");
  return is_ascii(c) ? c >= '0' && c <= '9' : matches(decimal, c);
}

bool is_digit(char32_t c) {
  static const Pattern other_number = Pattern::pcre2("[\\p{No}\\p{Nl}]");
  if (!is_ascii(c) && matches(other_number, c)) {
    throw Failure("whether '" + to_utf8(c) + "' is a digit is not supported");
  }
  return is_decimal(c);
}

std::string upper(std::string_view text) {
  return map_characters(text, [](char32_t c, size_t) { return changed_case(c, true); });
}

std::string lower(std::string_view text) {
  return map_characters(text, [](char32_t c, size_t) { return changed_case(c, false); });
}

std::string title(std::string_view text) {
  bool in_word = false;
  return map_characters(text, [&](char32_t c, size_t) {
    const bool has_case = is_upper_letter(c) || is_lower_letter(c);
    const char32_t changed = has_case ? changed_case(c, !in_word) : c;
    in_word = has_case;
    return changed;
  });
}

std::string capitalize(std::string_view text) {
  return map_characters(text, [](char32_t c, size_t index) { return changed_case(c, index == 0); });
}

size_t find_linear(std::string_view text, std::string_view part, size_t begin) {
  if (begin > text.size()) {
    return std::string_view::npos;
  }
  const void* const found = memmem(text.data() + begin, text.size() - begin, part.data(), part.size());
  return found == nullptr ? std::string_view::npos : static_cast<size_t>(static_cast<const char*>(found) - text.data());
}

std::string replace(std::string_view text, std::string_view old, std::string_view with, int64_t count) {
  std::string replaced;
  size_t begin = 0;
  if (old.empty()) { // before each character and at the end
    for (; count != 0 && begin < text.size(); --count) {
      const size_t length = character_length(text, begin);
      replaced += with;
      replaced += text.substr(begin, length);
      begin += length;
    }
    replaced += text.substr(begin);
    return count == 0 ? replaced : replaced + std::string(with);
  }
  for (; count != 0; --count) {
    const size_t found = find_linear(text, old, begin);
    if (found == std::string_view::npos) {
      break;
    }
    replaced += text.substr(begin, found - begin);
    replaced += with;
    begin = found + old.size();
  }
  replaced += text.substr(begin);
  return replaced;
}

namespace {

std::vector<std::string> split_at_spaces(std::string_view text, int64_t limit, bool from_right) {
  std::vector<std::pair<size_t, size_t>> words;
  bool in_word = false;
  for (size_t offset = 0; offset < text.size(); offset += character_length(text, offset)) {
    if (is_python_space(code_point_at(text, offset))) {
      in_word = false;
    } else {
      if (!in_word) {
        words.emplace_back(offset, offset);
      }
      words.back().second = offset + character_length(text, offset);
      in_word = true;
    }
  }
  // Beyond the limit the rest is one part, with the white space at its far end.
  const size_t apart = limit < 0 ? words.size() : std::min(words.size(), static_cast<size_t>(limit));
  const size_t joined = words.size() - apart;
  std::vector<std::string> parts;
  const auto add = [&](size_t begin, size_t end) { parts.emplace_back(text.substr(begin, end - begin)); };
  if (joined > 0 && from_right) {
    add(0, words[joined - 1].second);
  }
  for (size_t i = from_right ? joined : 0; i < (from_right ? words.size() : apart); ++i) {
    add(words[i].first, words[i].second);
  }
  if (joined > 0 && !from_right) {
    add(words[apart].first, text.size());
  }
  return parts;
}

} // namespace

std::vector<std::string> split(std::string_view text, const std::string* separator, int64_t limit, bool from_right) {
  if (separator == nullptr) {
    return split_at_spaces(text, limit, from_right);
  }
  if (separator->empty()) {
    throw Failure("empty separator");
  }
  std::vector<std::string> parts;
  while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
    const size_t found = from_right ? text.rfind(*separator) : find_linear(text, *separator, 0);
    if (found == std::string_view::npos) {
      break;
    }
    const size_t behind = found + separator->size();
    parts.emplace_back(from_right ? text.substr(behind) : text.substr(0, found));
    text = from_right ? text.substr(0, found) : text.substr(behind);
  }
  parts.emplace_back(text);
  if (from_right) {
    std::reverse(parts.begin(), parts.end());
  }
  return parts;
}

std::vector<std::string> split_lines(std::string_view text, bool keep_ends) {
  const auto is_end = [](char32_t c) {
    return (c >= '\n' && c <= '\r') || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
  };
  std::vector<std::string> lines;
  size_t begin = 0;
  for (size_t offset = 0; offset < text.size();) {
    const size_t length = character_length(text, offset);
    if (!is_end(code_point_at(text, offset))) {
      offset += length;
      continue;
    }
    const size_t behind = offset + (text.substr(offset, 2) == "\r\n" ? 2 : length);
    lines.emplace_back(text.substr(begin, (keep_ends ? behind : offset) - begin));
    begin = offset = behind;
  }
  if (begin < text.size()) {
    lines.emplace_back(text.substr(begin));
  }
  return lines;
}

} // namespace rora::detail::jinja
