#include "text/jinja/lexer.h"

#include "text/jinja/python_text.h"
#include "text/utf8.h"

#include <algorithm>
#include <array>

namespace rora::detail::jinja {

namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

/// A loop hashes the names of its variables at each turn.
constexpr size_t kMaxName = 256;

bool begins_name(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || static_cast<unsigned char>(c) >= 0x80;
}

std::string with_unix_line_ends(std::string_view source) {
  std::string text;
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      text += '\n';
      i += source.substr(i + 1, 1) == "\n" ? 1 : 0;
    } else {
      text += source[i];
    }
  }
  if (text.ends_with('\n')) { // Jinja leaves out one line's end at the end of a template
    text.pop_back();
  }
  return text;
}

class Lexer {
 public:
  explicit Lexer(std::string text) : text_(std::move(text)) {}

  std::vector<Token> run() {
    while (at_ < text_.size()) {
      read_data();
    }
    add(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  std::string_view rest() const {
    return std::string_view(text_).substr(at_);
  }

  bool starts(std::string_view with) const {
    return rest().starts_with(with);
  }

  Place place_of(size_t offset) {
    if (offset < counted_) {
      place_ = {1, 1};
      counted_ = 0;
    }
    for (; counted_ < offset; ++counted_) {
      const bool is_line_end = text_[counted_] == '\n';
      place_.line += is_line_end ? 1 : 0;
      const bool is_continuation = (static_cast<unsigned char>(text_[counted_]) & 0xC0) == 0x80;
      place_.column = is_line_end ? 1 : place_.column + (is_continuation ? 0 : 1);
    }
    return place_;
  }

  [[noreturn]] void fail(size_t offset, const std::string& what) {
    throw Failure(Failure::Kind::kMalformed, what, place_of(offset));
  }

  void add(TokenKind kind, std::string text) {
    tokens_.push_back({kind, std::move(text), place_of(at_)});
  }

  /// Goes on by a token's bytes; what it ended with decides whether the text behind it begins a line.
  void advance(size_t bytes) {
    if (bytes > 0) {
      line_starts_ = text_[at_ + bytes - 1] == '\n';
      at_ += bytes;
    }
  }

  void advance_over_space() {
    advance(space_at(at_));
  }

  /// Where the next tag begins, or the end of the text.
  size_t find_tag() const {
    for (size_t i = at_; i + 1 < text_.size(); ++i) {
      if (text_[i] == '{' && (text_[i + 1] == '%' || text_[i + 1] == '{' || text_[i + 1] == '#')) {
        return i;
      }
    }
    return text_.size();
  }

  /// The bytes of white space from `offset` on.
  size_t space_at(size_t offset) const {
    size_t end = offset;
    while (end < text_.size() && is_python_space(code_point_at(text_, end))) {
      end += character_length(text_, end);
    }
    return end - offset;
  }

  /// Text up to the next tag, and the tag.
  void read_data() {
    const size_t tag = find_tag();
    std::string_view data = rest().substr(0, tag - at_);
    if (tag == text_.size()) {
      add_data(data);
      advance(data.size());
      return;
    }
    const char kind = text_[tag + 1];
    const char sign = tag + 2 < text_.size() ? text_[tag + 2] : ' ';
    data = without_space_before(data, sign, kind, line_starts_);
    add_data(data);
    advance(tag - at_);
    open_ = at_;
    advance(sign == '-' || sign == '+' ? 3 : 2);
    if (kind == '#') {
      read_comment();
    } else if (kind == '{') {
      tokens_.push_back({TokenKind::kVariableBegin, "", place_of(open_)});
      read_code("}}", TokenKind::kVariableEnd);
    } else if (!read_raw()) {
      tokens_.push_back({TokenKind::kBlockBegin, "", place_of(open_)});
      read_code("%}", TokenKind::kBlockEnd);
    }
  }

  void add_data(std::string_view data) {
    if (!data.empty()) {
      add(TokenKind::kData, std::string(data));
    }
  }

  static std::string_view without_space_before(std::string_view data, char sign, char kind, bool line_starts) {
    if (sign == '-') {
      return data.substr(0, strip(data, nullptr, false, true).size());
    }
    if (sign == '+' || kind == '{') {
      return data;
    }
    const size_t line = data.rfind('\n') == std::string_view::npos ? 0 : data.rfind('\n') + 1;
    const bool is_blank = strip(data.substr(line), nullptr, true, false).empty();
    return (line > 0 || line_starts) && is_blank ? data.substr(0, line) : data;
  }

  /// Behind the closing of a block or comment: `-` takes all white space, `+` none, else one line's end goes.
  void close(char sign) {
    if (sign == '-') {
      advance_over_space();
    } else if (sign != '+' && starts("\n")) {
      advance(1);
    }
  }

  void read_comment() {
    const size_t end = text_.find("#}", at_);
    if (end == std::string::npos) {
      fail(open_, "the comment has no end");
    }
    const char sign = end > at_ ? text_[end - 1] : ' ';
    advance(end + 2 - at_);
    close(sign);
  }

  /// The block `name` from `offset`, which stands at its "{%": the offset behind its "%}" and the closing sign.
  struct Tag {
    size_t end = std::string::npos;
    char opening = ' ';
    char closing = ' ';
  };
  Tag tag_at(size_t offset, std::string_view name) const {
    Tag tag;
    std::string_view code = std::string_view(text_).substr(offset + 2);
    const auto take = [&](std::string_view what) {
      const bool is_there = code.starts_with(what);
      code.remove_prefix(is_there ? what.size() : 0);
      return is_there;
    };
    const auto take_space = [&] { code.remove_prefix(space_at(text_.size() - code.size())); };
    tag.opening = take("-") ? '-' : (take("+") ? '+' : ' ');
    take_space();
    if (!take(name)) {
      return tag;
    }
    take_space();
    tag.closing = take("-") ? '-' : (take("+") ? '+' : ' ');
    if (take("%}")) {
      tag.end = text_.size() - code.size();
    }
    return tag;
  }

  /// From `{% raw %}`, whose "{%" is read, to behind `{% endraw %}`.
  bool read_raw() {
    const Tag begin = tag_at(open_, "raw");
    if (begin.end == std::string::npos) {
      return false;
    }
    advance(begin.end - at_);
    if (begin.closing == '-') {
      advance_over_space();
    }
    for (size_t tag = text_.find("{%", at_); tag != std::string::npos; tag = text_.find("{%", tag + 2)) {
      const Tag end = tag_at(tag, "endraw");
      if (end.end != std::string::npos) {
        add_data(without_space_before(rest().substr(0, tag - at_), end.opening, '%', line_starts_));
        advance(end.end - at_);
        close(end.closing);
        return true;
      }
    }
    fail(open_, "the raw block has no end");
  }

  /// The tokens of a tag up to its closing `end`, which counts outside of brackets only.
  void read_code(std::string_view end, TokenKind end_kind) {
    std::string brackets;
    while (true) {
      advance_over_space();
      if (rest().empty()) {
        fail(open_, "the tag has no end");
      }
      const bool is_signed = (starts("-") || (starts("+") && end == "%}")) && rest().substr(1).starts_with(end);
      if (brackets.empty() && (is_signed || starts(end))) {
        const char sign = is_signed ? text_[at_] : ' ';
        add(end_kind, "");
        advance(end.size() + (is_signed ? 1 : 0));
        if (sign == '-') {
          advance_over_space();
        } else if (end_kind == TokenKind::kBlockEnd) {
          close(sign);
        }
        return;
      }
      read_token(brackets);
    }
  }

  void read_token(std::string& brackets) {
    const char c = text_[at_];
    if (is_digit(c)) {
      read_number();
    } else if (c == '"' || c == '\'') {
      read_string();
    } else if (begins_name(c)) {
      size_t end = at_;
      while (end < text_.size() && (begins_name(text_[end]) || is_digit(text_[end]))) {
        ++end;
      }
      if (end - at_ > kMaxName) {
        fail(at_, "a name of more than " + std::to_string(kMaxName) + " characters");
      }
      add(TokenKind::kName, text_.substr(at_, end - at_));
      advance(end - at_);
    } else {
      read_operator(brackets);
    }
  }

  void read_operator(std::string& brackets) {
    static constexpr std::array<std::string_view, 6> kPairs = {"//", "**", "==", "!=", ">=", "<="};
    const std::string_view two = rest().substr(0, 2);
    const bool is_pair = std::find(kPairs.begin(), kPairs.end(), two) != kPairs.end();
    const char c = text_[at_];
    if (!is_pair && std::string_view("+-/*%~[](){}><=.:|,;").find(c) == std::string_view::npos) {
      fail(at_, "an unexpected character '" + std::string(rest().substr(0, character_length(text_, at_))) + "'");
    }
    if (c == '(' || c == '[' || c == '{') {
      brackets += c == '(' ? ')' : (c == '[' ? ']' : '}');
    } else if (c == ')' || c == ']' || c == '}') {
      if (brackets.empty() || brackets.back() != c) {
        fail(at_, std::string("an unexpected '") + c + "'");
      }
      brackets.pop_back();
    }
    add(TokenKind::kOperator, std::string(is_pair ? two : rest().substr(0, 1)));
    advance(is_pair ? 2 : 1);
  }

  /// Digits with single underscores between them: how many bytes.
  size_t digits_at(size_t offset) const {
    size_t end = offset;
    while (end < text_.size() &&
           (is_digit(text_[end]) ||
            (text_[end] == '_' && end > offset && end + 1 < text_.size() && is_digit(text_[end + 1])))) {
      ++end;
    }
    return end - offset;
  }

  void read_number() {
    size_t end = at_ + digits_at(at_);
    bool is_float = false;
    const bool follows_dot = at_ > 0 && text_[at_ - 1] == '.'; // x.0.1 is two keys
    if (!follows_dot) {
      if (end < text_.size() && text_[end] == '.' && digits_at(end + 1) > 0) {
        is_float = true;
        end += 1 + digits_at(end + 1);
      }
      if (end < text_.size() && (text_[end] == 'e' || text_[end] == 'E')) {
        const size_t sign = end + 1 < text_.size() && (text_[end + 1] == '+' || text_[end + 1] == '-') ? 1 : 0;
        if (const size_t digits = digits_at(end + 1 + sign); digits > 0) {
          is_float = true;
          end += 1 + sign + digits;
        }
      }
    }
    std::string digits = text_.substr(at_, end - at_);
    digits.erase(std::remove(digits.begin(), digits.end(), '_'), digits.end());
    const bool is_prefixed = digits == "0" && end < text_.size() && begins_name(text_[end]);
    const bool has_leading_zero =
        !is_float && digits.size() > 1 && digits[0] == '0' && digits.find_first_not_of('0') != std::string::npos;
    if (is_prefixed || has_leading_zero) {
      fail(at_, "a number that begins with 0 is not supported");
    }
    add(is_float ? TokenKind::kFloat : TokenKind::kInteger, digits);
    advance(end - at_);
  }

  void read_string() {
    const char quote = text_[at_];
    size_t end = at_ + 1;
    while (end < text_.size() && text_[end] != quote) {
      end += text_[end] == '\\' ? 2 : 1;
    }
    if (end >= text_.size()) {
      fail(at_, "the string has no end");
    }
    add(TokenKind::kString, unescaped(at_ + 1, end));
    advance(end + 1 - at_);
  }

  /// The value of a string literal from `begin` to `end`, by Python's escapes.
  std::string unescaped(size_t begin, size_t end) {
    std::string value;
    for (size_t i = begin; i < end; ++i) {
      if (text_[i] != '\\') {
        value += text_[i];
        continue;
      }
      static constexpr std::string_view kNames = "abfnrtv\\'\"";
      static constexpr std::string_view kValues = "\a\b\f\n\r\t\v\\'\"";
      const char c = text_[++i];
      if (const size_t known = kNames.find(c); known != std::string_view::npos) {
        value += kValues[known];
      } else if (c == 'x' || c == 'u' || c == 'U') {
        const size_t digits = c == 'x' ? 2 : (c == 'u' ? 4 : 8);
        value += to_utf8(code_point(i - 1, text_.substr(i + 1, std::min(digits, end - i - 1)), digits, 16));
        i += digits;
      } else if (c >= '0' && c <= '7') {
        size_t digits = 1;
        while (digits < 3 && i + digits < end && text_[i + digits] >= '0' && text_[i + digits] <= '7') {
          ++digits;
        }
        value += to_utf8(code_point(i - 1, text_.substr(i, digits), digits, 8));
        i += digits - 1;
      } else if (c == 'N') {
        fail(i - 1, "the escape \\N is not supported");
      } else if (c != '\n') { // Python leaves an escape that it does not know as it is, and a line's end out
        value += {'\\', c};
      }
    }
    return value;
  }

  char32_t code_point(size_t offset, const std::string& digits, size_t count, int base) {
    const bool all = digits.size() == count && std::all_of(digits.begin(), digits.end(), [](char c) {
                       return std::isxdigit(static_cast<unsigned char>(c)) != 0;
                     });
    const unsigned long value = all ? std::stoul(digits, nullptr, base) : 0;
    if (!all || value > 0x10FFFF || (value >= 0xD800 && value < 0xE000)) {
      fail(offset, "an escape that names no character");
    }
    return static_cast<char32_t>(value);
  }

  std::string text_;
  size_t at_ = 0;
  size_t open_ = 0; ///< where the tag that is read begins
  bool line_starts_ = true;
  Place place_{1, 1};
  size_t counted_ = 0; ///< up to there line ends are counted
  std::vector<Token> tokens_;
};

} // namespace

std::vector<Token> tokenize(std::string_view source) {
  return Lexer(with_unix_line_ends(source)).run();
}

} // namespace rora::detail::jinja
