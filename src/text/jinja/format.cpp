#include "text/jinja/nodes.h"

#include <algorithm>
#include <array>
#include <cstdio>

namespace rora::detail::jinja {

namespace {

constexpr size_t kMaxWidth = 1000;

/// What stands between % and the letter of a conversion.
struct Conversion {
  std::string flags;
  std::string width;
  std::string precision; ///< with its dot
  char letter = ' ';
};

std::string number_text(const Conversion& conversion, const Value& value) {
  value.require_defined();
  if (!value.is_number()) {
    throw Failure(std::string("%") + conversion.letter + " format: a number is required, not " + value.type_name());
  }
  std::array<char, 4 * kMaxWidth> text{};
  const std::string begin = "%" + conversion.flags + conversion.width + conversion.precision;
  if (conversion.letter == 'd' || conversion.letter == 'i') {
    if (value.is_float() && !(std::abs(value.number()) < 9.2e18)) {
      throw Failure("%d format: the number does not fit 64 bits");
    }
    const auto integer = value.is_float() ? static_cast<int64_t>(value.number()) : value.integer();
    std::snprintf(text.data(), text.size(), (begin + "ld").c_str(), static_cast<long>(integer));
  } else {
    std::snprintf(text.data(), text.size(), (begin + conversion.letter).c_str(), value.number());
  }
  return text.data();
}

std::string padded(const Conversion& conversion, std::string text) {
  if (!conversion.precision.empty()) {
    throw Failure("a precision of a text in a format is not supported");
  }
  const size_t width = conversion.width.empty() ? 0 : std::stoul(conversion.width);
  const auto is_continuation = [](char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; };
  const auto bytes = static_cast<size_t>(std::count_if(text.begin(), text.end(), is_continuation));
  const size_t missing = width - std::min(width, text.size() - bytes);
  const bool is_left = conversion.flags.find('-') != std::string::npos;
  text.insert(is_left ? text.size() : 0, missing, ' ');
  return text;
}

class PercentFormatter {
 public:
  PercentFormatter(Run& run, const std::string& format, const Value& values)
      : run_(run), format_(format), values_(values) {}

  std::string format() {
    run_.charge_text(format_.size());
    std::string text;
    while (at_ < format_.size()) {
      const size_t percent = std::min(format_.find('%', at_), format_.size());
      text += format_.substr(at_, percent - at_);
      at_ = percent + 1;
      if (percent < format_.size()) {
        run_.charge_text(kMaxWidth);
        text += next();
      }
    }
    const Sequence* const tuple = values_.sequence();
    const bool is_tuple = tuple != nullptr && tuple->is_tuple;
    if (!named_ && values_.dictionary() == nullptr && used_ < (is_tuple ? tuple->items.size() : 1)) {
      throw Failure("not all arguments converted during string formatting");
    }
    return text;
  }

 private:
  std::string take(std::string_view characters) {
    const size_t end = std::min(format_.find_first_not_of(characters, at_), format_.size());
    const std::string taken = format_.substr(at_, end - at_);
    at_ = end;
    return taken;
  }

  std::string next() {
    Value value;
    bool has_value = false;
    if (format_.substr(at_, 1) == "(") {
      const size_t end = format_.find(')', at_);
      if (end == std::string::npos || values_.dictionary() == nullptr) {
        throw Failure("format requires a mapping");
      }
      const std::string key = format_.substr(at_ + 1, end - at_ - 1);
      const Value* const found = values_.dictionary()->find(key);
      if (found == nullptr) {
        throw Failure("format: the mapping has no '" + key + "'");
      }
      value = *found;
      has_value = named_ = true;
      at_ = end + 1;
    }
    Conversion conversion;
    conversion.flags = take("#0- +").substr(0, 8);
    conversion.width = take("0123456789");
    if (format_.substr(at_, 1) == ".") {
      ++at_;
      conversion.precision = "." + take("0123456789");
    }
    const auto is_large = [](const std::string& digits) {
      return digits.size() > 4 || (digits.size() == 4 && digits[0] != '.');
    };
    if (is_large(conversion.width) || is_large(conversion.precision)) {
      throw Failure("a width or precision over 999 in a format is not supported");
    }
    conversion.letter = at_ < format_.size() ? format_[at_++] : ' ';
    if (conversion.letter == '%') {
      return "%";
    }
    if (std::string_view("srdifFeEgG").find(conversion.letter) == std::string_view::npos) {
      throw Failure(std::string("the format %") + conversion.letter + " is not supported");
    }
    if (!has_value) {
      value = next_value();
    }
    if (conversion.letter == 's') {
      return padded(conversion, printed(run_, value));
    }
    if (conversion.letter == 'r') {
      run_.charge(value.weight());
      return padded(conversion, value.repr());
    }
    return number_text(conversion, value);
  }

  Value next_value() {
    const Sequence* const tuple = values_.sequence();
    const bool is_tuple = tuple != nullptr && tuple->is_tuple;
    if (used_ >= (is_tuple ? tuple->items.size() : 1)) {
      throw Failure("not enough arguments for format string");
    }
    return is_tuple ? tuple->items[used_++] : (++used_, values_);
  }

  Run& run_;
  const std::string& format_;
  const Value& values_;
  size_t at_ = 0;
  size_t used_ = 0;
  bool named_ = false;
};

} // namespace

std::string format_percent(Run& run, const std::string& format, const Value& arguments) {
  return PercentFormatter(run, format, arguments).format();
}

std::string format_braces(Run& run, const std::string& format, const Arguments& arguments) {
  run.charge_text(format.size());
  std::string text;
  size_t next = 0;
  for (size_t at = 0; at < format.size(); ++at) {
    const char c = format[at];
    if (c != '{' && c != '}') {
      text += c;
      continue;
    }
    if (format.substr(at + 1, 1) == std::string(1, c)) {
      text += c;
      ++at;
      continue;
    }
    const size_t end = c == '{' ? format.find('}', at) : std::string::npos;
    if (end == std::string::npos) {
      throw Failure(std::string("a single '") + c + "' in a format string");
    }
    const std::string field = format.substr(at + 1, end - at - 1);
    const bool is_number = field.size() < 4 && field.find_first_not_of("0123456789") == std::string::npos;
    at = end;
    if (is_number) {
      const size_t index = field.empty() ? next++ : std::stoul(field);
      if (index >= arguments.positional.size()) {
        throw Failure("replacement index " + std::to_string(index) + " out of range for positional args tuple");
      }
      text += printed(run, arguments.positional[index]);
      continue;
    }
    const auto found = std::find_if(
        arguments.named.begin(), arguments.named.end(), [&](const auto& argument) { return argument.first == field; });
    if (found == arguments.named.end()) {
      throw Failure("the field '" + field + "' of a format string is not given, or more than a name");
    }
    text += printed(run, found->second);
  }
  return text;
}

} // namespace rora::detail::jinja
