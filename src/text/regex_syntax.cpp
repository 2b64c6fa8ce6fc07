#include "text/regex_syntax.h"

#include "text/unicode_additions.h"
#include "text/utf8.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <vector>

namespace rora::detail {

namespace {

constexpr std::array kGroupOpenings = {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};
// Pairs of letters that one character matches in Oniguruma where case does not matter ("ss" and ß), and not in PCRE2.
constexpr std::array kFoldedPairs = {"ff", "fi", "fl", "ss", "st"};

bool is_ascii_letter(char character) {
  return std::isalpha(static_cast<unsigned char>(character)) && static_cast<unsigned char>(character) < 0x80;
}

bool is_ascii_digit(char character) {
  return character >= '0' && character <= '9';
}

/// Walks the expression once and writes its translation.
class Translator {
 public:
  explicit Translator(std::string_view expression) : rest_(expression) {}

  std::string translate() {
    while (!rest_.empty()) {
      const char next = rest_.front();
      if (next == '(') {
        open_group();
      } else if (next == ')') {
        close_group();
      } else if (next == '[') {
        translate_class();
      } else if (next == '{') {
        translate_interval();
      } else if (next == '\\') {
        translate_escape(/*in_class=*/false);
      } else if (next == '^' || next == '$') {
        refuse(rest_.substr(0, 1)); // they match at every line in Ruby's syntax
      } else {
        translate_character();
      }
    }
    return translated_;
  }

 private:
  [[noreturn]] static void refuse(std::string_view what) {
    C10_THROW_ERROR(ValueError, "it uses " + std::string(what));
  }

  std::string_view take(size_t count) {
    const std::string_view taken = rest_.substr(0, count);
    rest_.remove_prefix(taken.size());
    return taken;
  }

  bool ignores_case() const {
    return std::find(caseless_.begin(), caseless_.end(), true) != caseless_.end();
  }

  void open_group() {
    last_letter_ = '\0';
    if (!rest_.starts_with("(?")) {
      caseless_.push_back(false);
      translated_ += take(1);
      return;
    }
    const auto opening = std::find_if(
        kGroupOpenings.begin(), kGroupOpenings.end(), [&](const char* each) { return rest_.starts_with(each); });
    if (opening == kGroupOpenings.end()) {
      refuse(rest_.substr(0, 4));
    }
    caseless_.push_back(std::string_view(*opening) == "(?i:");
    translated_ += take(std::string_view(*opening).size());
  }

  void close_group() {
    last_letter_ = '\0';
    if (caseless_.empty()) {
      refuse("a ) that closes nothing");
    }
    caseless_.pop_back();
    translated_ += take(1);
  }

  void translate_character() {
    const size_t length = character_length(rest_, 0);
    const char letter = static_cast<char>(std::tolower(static_cast<unsigned char>(rest_.front())));
    if (ignores_case()) {
      const bool folded = std::any_of(kFoldedPairs.begin(), kFoldedPairs.end(), [&](const char* pair) {
        return last_letter_ == pair[0] && letter == pair[1];
      });
      if (length > 1 || folded) {
        refuse("letters in (?i:...) that match others when case is ignored");
      }
    }
    last_letter_ = letter;
    translated_ += take(length);
  }

  // {n}, {n,} or {n,m}; in Ruby's syntax a + or ? behind it is another repetition.
  void translate_interval() {
    size_t end = 1;
    while (end < rest_.size() && (is_ascii_digit(rest_[end]) || (rest_[end] == ',' && end > 1))) {
      ++end;
    }
    const bool closed = end > 1 && end < rest_.size() && rest_[end] == '}';
    if (!closed || std::count(rest_.begin(), rest_.begin() + end, ',') > 1) {
      refuse("a { that begins no interval {n}, {n,} or {n,m}");
    }
    translated_ += take(end + 1);
    if (!rest_.empty() && (rest_.front() == '+' || rest_.front() == '?')) {
      refuse("an interval with " + std::string(1, rest_.front()) + " behind it");
    }
  }

  void translate_class() {
    if (ignores_case()) {
      refuse("a character class in (?i:...)");
    }
    last_letter_ = '\0';
    translated_ += take(1);
    if (rest_.starts_with('^')) {
      translated_ += take(1);
    }
    if (rest_.starts_with(']')) {
      refuse("an empty character class");
    }
    while (!rest_.starts_with(']')) {
      if (rest_.empty()) {
        refuse("a character class without end");
      }
      if (rest_.front() == '[') {
        refuse("a class inside a character class");
      }
      if (rest_.starts_with("&&")) {
        refuse("&& in a character class");
      }
      if (rest_.front() == '\\') {
        translate_escape(/*in_class=*/true);
      } else {
        translated_ += take(character_length(rest_, 0));
      }
    }
    translated_ += take(1);
  }

  void translate_escape(bool in_class) {
    last_letter_ = '\0';
    take(1);
    if (rest_.empty()) {
      refuse("a \\ at its end");
    }
    const char escaped = take(1).front();
    switch (escaped) {
      case 's':
        translated_ += "\\p{White_Space}";
        return;
      case 'S':
        translated_ += "\\P{White_Space}";
        return;
      case 'd':
        append_category("Nd", /*negated=*/false, in_class);
        return;
      case 'D':
        append_category("Nd", /*negated=*/true, in_class);
        return;
      case 'w':
        translated_ += in_class ? word_characters() : "[" + word_characters() + "]";
        return;
      case 'v':
        translated_ += "\\x{0B}";
        return;
      case 'p':
      case 'P':
        translate_property(escaped, in_class);
        return;
      case 'x':
      case 'u':
        translate_code_point(escaped);
        return;
      case 'r':
      case 'n':
      case 't':
      case 'f':
        break;
      default:
        if (escaped == 'W' && !in_class) {
          translated_ += "[^" + word_characters() + "]";
          return;
        }
        if (is_ascii_letter(escaped) || is_ascii_digit(escaped) || static_cast<unsigned char>(escaped) >= 0x80) {
          refuse(std::string("\\") + escaped);
        }
    }
    translated_ += '\\';
    translated_ += escaped;
  }

  // \p{Name}: a general category, or a script, whose bare name PCRE2 reads as Script_Extensions.
  void translate_property(char escaped, bool in_class) {
    const size_t end = rest_.find('}');
    if (!rest_.starts_with('{') || end == std::string_view::npos) {
      refuse(std::string("\\") + escaped + " without {NAME}");
    }
    std::string_view name = take(end + 1).substr(1, end - 1);
    bool negated = escaped == 'P';
    if (name.starts_with('^')) {
      negated = !negated;
      name.remove_prefix(1);
    }
    if (name.empty() ||
        !std::all_of(name.begin(), name.end(), [](char each) { return is_ascii_letter(each) || each == '_'; })) {
      refuse("the property " + std::string(name));
    }
    if (name.size() <= 2) {
      append_category(name, negated, in_class);
    } else {
      translated_ += (negated ? "\\P{sc:" : "\\p{sc:") + std::string(name) + "}";
    }
  }

  // A complement inside a class has no room for the additions, which it should leave out: PCRE2's own Unicode decides.
  void append_category(std::string_view name, bool negated, bool in_class) {
    const std::string members = "\\p{" + std::string(name) + "}" + unicode_additions(name);
    if (in_class) {
      translated_ += negated ? "\\P{" + std::string(name) + "}" : members;
    } else {
      translated_ += (negated ? "[^" : "[") + members + "]";
    }
  }

  // \xHH, \x{H...} or \uHHHH
  void translate_code_point(char escaped) {
    std::string_view digits;
    if (escaped == 'x' && rest_.starts_with('{')) {
      const size_t end = std::min(rest_.find('}'), rest_.size() - 1);
      digits = take(end + 1).substr(1, end - 1);
    } else {
      digits = take(escaped == 'x' ? 2 : 4);
    }
    const bool is_hexadecimal = std::all_of(
        digits.begin(), digits.end(), [](char digit) { return std::isxdigit(static_cast<unsigned char>(digit)); });
    // Two digits beyond ASCII are a raw byte in Oniguruma.
    if (!is_hexadecimal || digits.size() < 2 || digits.size() > 6 ||
        (escaped == 'x' && digits.size() == 2 && digits.front() > '7')) {
      refuse(std::string("\\") + escaped + std::string(digits));
    }
    translated_ += "\\x{" + std::string(digits) + "}";
  }

  // Oniguruma's \w: the standard's (technical report 18), with the superscripts and fractions of Latin-1.
  static std::string word_characters() {
    return "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}" + unicode_additions("L") +
        unicode_additions("M") + unicode_additions("Nd");
  }

  std::string_view rest_;
  std::string translated_;
  std::vector<bool> caseless_; // of each group that is open
  char last_letter_ = '\0';
};

} // namespace

std::string to_pcre2_syntax(std::string_view expression) {
  return Translator(expression).translate();
}

} // namespace rora::detail
