#include "text/jinja/filters.h"
#include "text/jinja/python_text.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <limits>

namespace rora::detail::jinja {

namespace {

/// Whether the text begins with the prefix that Python's numbers of that base may have: 0x, 0o or 0b.
bool has_prefix(std::string_view text, int base) {
  const char letter = base == 16 ? 'x' : base == 8 ? 'o' : base == 2 ? 'b' : '\0';
  return letter != '\0' && text.size() > 2 && text[0] == '0' && (text[1] | 0x20) == letter;
}

/// Python's `int(text, base)`; nothing where it is none.
std::optional<int64_t> read_integer(std::string_view text, int base) {
  std::string digits = strip(text, nullptr, true, true);
  if (digits.starts_with('+') && !digits.starts_with("+-")) {
    digits.erase(0, 1);
  }
  const size_t sign = digits.starts_with('-') ? 1 : 0;
  if (has_prefix(std::string_view(digits).substr(sign), base)) {
    digits.erase(sign, 2);
    if (digits[sign] == '-') {
      return std::nullopt;
    }
  }
  int64_t value = 0;
  const auto end = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
  if (end.ec == std::errc::result_out_of_range) {
    throw Failure("an integer beyond 64 bits is not supported");
  }
  const bool is_whole = end.ec == std::errc() && end.ptr == digits.data() + digits.size();
  return is_whole ? std::make_optional(value) : std::nullopt;
}

/// Python's `float(text)`; nothing where it is none.
std::optional<double> read_float(std::string_view text) {
  std::string digits = strip(text, nullptr, true, true);
  if (digits.starts_with('+') && !digits.starts_with("+-")) {
    digits.erase(0, 1);
  }
  double value = 0;
  const auto end = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  const bool is_whole =
      !digits.empty() && end.ec != std::errc::invalid_argument && end.ptr == digits.data() + digits.size();
  if (is_whole && end.ec == std::errc::result_out_of_range) {
    throw Failure("a number out of range: " + digits);
  }
  return is_whole ? std::make_optional(value) : std::nullopt;
}

int64_t truncated(double value) {
  if (!(std::abs(value) < 9.2e18)) {
    throw Failure("cannot convert " + text_of(value) + " to an integer of 64 bits");
  }
  return static_cast<int64_t>(value);
}

Value to_integer(Run&, const Value& input, const Arguments& arguments) {
  const std::vector<Value> values = bind_arguments("int", arguments, {"default", "base"});
  const int64_t base = integer_or(values[1], 10);
  if (base < 2 || base > 36) {
    throw Failure("int() takes a base from 2 to 36, found " + std::to_string(base));
  }
  input.require_defined();
  if (input.is_number()) {
    return input.is_integer() ? Value(input.integer()) : Value(truncated(input.number()));
  }
  if (input.is_string()) {
    if (const auto integer = read_integer(input.string(), static_cast<int>(base))) {
      return Value(*integer);
    }
    if (const auto number = read_float(input.string())) {
      return Value(truncated(*number));
    }
  }
  return values[0].is_undefined() ? Value(int64_t{0}) : values[0];
}

Value to_float(Run&, const Value& input, const Arguments& arguments) {
  const Value otherwise = bind_arguments("float", arguments, {"default"})[0];
  input.require_defined();
  if (input.is_number()) {
    return Value(input.number());
  }
  if (input.is_string()) {
    if (const auto number = read_float(input.string())) {
      return Value(*number);
    }
  }
  return otherwise.is_undefined() ? Value(0.0) : otherwise;
}

const Value& require_number(const Value& value) {
  value.require_defined();
  if (!value.is_number()) {
    throw Failure("a number is required, found " + value.type_name());
  }
  return value;
}

Value absolute(Run& run, const Value& input, const Arguments& arguments) {
  bind_arguments("abs", arguments, {});
  if (require_number(input).is_float()) {
    return Value(std::abs(input.number()));
  }
  return input.integer() < 0 ? arithmetic(run, "-", Value(int64_t{0}), input) : Value(input.integer());
}

Value round_number(Run&, const Value& input, const Arguments& arguments) {
  const std::vector<Value> values = bind_arguments("round", arguments, {"precision", "method"});
  const int64_t precision = integer_or(values[0], 0);
  const std::string method = values[1].is_undefined() ? "common" : values[1].text();
  if (method != "common" && method != "ceil" && method != "floor") {
    throw Failure("method must be common, ceil or floor");
  }
  if (precision < 0 || precision > 15) {
    throw Failure("round takes a precision from 0 to 15, found " + std::to_string(precision));
  }
  require_number(input);
  if (method != "common") {
    const double power = std::pow(10.0, static_cast<double>(precision));
    const double scaled = input.number() * power;
    return Value((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / power);
  }
  if (input.is_integer() || !std::isfinite(input.number())) {
    return input.is_integer() ? Value(input.integer()) : input;
  }
  std::array<char, 400> digits{}; // to the nearest, ties to even, as printf and Python's round do
  std::snprintf(digits.data(), digits.size(), "%.*f", static_cast<int>(precision), input.number());
  return Value(std::stod(digits.data()));
}

} // namespace

const FilterList& number_filters() {
  static const FilterList filters = {
      {"int", to_integer},
      {"float", to_float},
      {"abs", absolute},
      {"round", round_number},
  };
  return filters;
}

} // namespace rora::detail::jinja
