#include "text/jinja/nodes.h"
#include "text/jinja/python_text.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace rora::detail::jinja {

namespace {

[[noreturn]] void refuse(const std::string& operation, const Value& a, const Value& b) {
  a.require_defined();
  b.require_defined();
  throw Failure("unsupported operand types for " + operation + ": '" + a.type_name() + "' and '" + b.type_name() + "'");
}

/// By `__builtin_add_overflow` and its like.
template <typename Operation>
int64_t in_64_bits(Operation overflows) {
  int64_t result = 0;
  if (overflows(&result)) {
    throw Failure("an integer beyond 64 bits is not supported");
  }
  return result;
}

int64_t product(int64_t a, int64_t b) {
  return in_64_bits([&](int64_t* result) { return __builtin_mul_overflow(a, b, result); });
}

void require_divisor(bool is_zero) {
  if (is_zero) {
    throw Failure("division by zero");
  }
}

Value of_floats(const std::string& operation, double a, double b) {
  if (operation == "+") {
    return Value(a + b);
  }
  if (operation == "-") {
    return Value(a - b);
  }
  if (operation == "*") {
    return Value(a * b);
  }
  if (operation == "**") {
    const double result = std::pow(a, b);
    if ((std::isnan(result) && !std::isnan(a) && !std::isnan(b)) || (a == 0 && b < 0) ||
        (std::isinf(result) && std::isfinite(a) && std::isfinite(b))) {
      throw Failure("a power that is no real number");
    }
    return Value(result);
  }
  require_divisor(b == 0);
  if (operation == "/") {
    return Value(a / b);
  }
  double remainder = std::fmod(a, b);
  if (remainder != 0 && (remainder < 0) != (b < 0)) {
    remainder += b;
  }
  return operation == "%" ? Value(remainder) : Value(std::floor((a - remainder) / b + 0.5));
}

int64_t power(int64_t base, int64_t exponent) {
  int64_t result = 1;
  for (; exponent > 0; exponent /= 2) {
    if (exponent % 2 == 1) {
      result = product(result, base);
    }
    if (exponent > 1) {
      base = product(base, base);
    }
  }
  return result;
}

Value of_integers(const std::string& operation, int64_t a, int64_t b) {
  if (operation == "+") {
    return Value(in_64_bits([&](int64_t* result) { return __builtin_add_overflow(a, b, result); }));
  }
  if (operation == "-") {
    return Value(in_64_bits([&](int64_t* result) { return __builtin_sub_overflow(a, b, result); }));
  }
  if (operation == "*") {
    return Value(product(a, b));
  }
  if (operation == "**") {
    return b < 0 ? of_floats(operation, static_cast<double>(a), static_cast<double>(b)) : Value(power(a, b));
  }
  require_divisor(b == 0);
  if (operation == "/") {
    return Value(static_cast<double>(a) / static_cast<double>(b));
  }
  if (b == -1) { // the least integer has no remainder by -1 that the processor can form
    return operation == "%" ? Value(int64_t{0}) : Value(product(a, b));
  }
  const int64_t remainder = a % b; // Python's has the divisor's sign
  const bool is_off = remainder != 0 && (remainder < 0) != (b < 0);
  if (operation == "%") {
    return Value(remainder + (is_off ? b : 0));
  }
  return Value(a / b - (is_off ? 1 : 0));
}

Value repeated(Run& run, const Value& value, int64_t times) {
  const auto count = static_cast<size_t>(std::max<int64_t>(times, 0));
  const Sequence* const sequence = value.sequence();
  const size_t size = sequence != nullptr ? sequence->items.size() : value.string().size();
  size_t total = 0;
  if (__builtin_mul_overflow(size, count, &total)) {
    total = std::numeric_limits<size_t>::max();
  }
  if (sequence == nullptr) {
    run.charge_text(total);
    std::string text;
    for (size_t i = 0; i < count && size > 0; ++i) {
      text += value.string();
    }
    return Value(std::move(text));
  }
  run.charge(total);
  std::vector<Value> items;
  for (size_t i = 0; i < count && size > 0; ++i) {
    items.insert(items.end(), sequence->items.begin(), sequence->items.end());
  }
  return sequence->is_tuple ? Value::tuple(std::move(items)) : Value::list(std::move(items));
}

Value sum(Run& run, const Value& a, const Value& b) {
  if (a.is_string() && b.is_string()) {
    run.charge_text(a.string().size() + b.string().size());
    return Value(a.string() + b.string());
  }
  const Sequence* const left = a.sequence();
  const Sequence* const right = b.sequence();
  if (left == nullptr || right == nullptr || left->is_tuple != right->is_tuple || left->is_generator ||
      right->is_generator) {
    refuse("+", a, b);
  }
  run.charge(left->items.size() + right->items.size());
  std::vector<Value> items = left->items;
  items.insert(items.end(), right->items.begin(), right->items.end());
  return left->is_tuple ? Value::tuple(std::move(items)) : Value::list(std::move(items));
}

} // namespace

Value arithmetic(Run& run, const std::string& operation, const Value& a, const Value& b) {
  if (a.is_integer() && b.is_integer()) {
    return of_integers(operation, a.integer(), b.integer());
  }
  if (a.is_number() && b.is_number()) {
    return of_floats(operation, a.number(), b.number());
  }
  if (operation == "+") {
    return sum(run, a, b);
  }
  if (operation == "%" && a.is_string()) {
    return Value(format_percent(run, a.string(), b));
  }
  if (operation == "*") {
    const auto is_repeatable = [](const Value& value) { return value.is_string() || value.sequence() != nullptr; };
    if (is_repeatable(a) && b.is_integer()) {
      return repeated(run, a, b.integer());
    }
    if (is_repeatable(b) && a.is_integer()) {
      return repeated(run, b, a.integer());
    }
  }
  refuse(operation, a, b);
}

bool contains(Run& run, const Value& haystack, const Value& needle) {
  if (haystack.is_string()) {
    if (!needle.is_string()) {
      needle.require_defined();
      throw Failure("'in <string>' requires string as left operand, not " + needle.type_name());
    }
    run.charge_text(haystack.string().size());
    return find_linear(haystack.string(), needle.string(), 0) != std::string::npos;
  }
  if (const Dictionary* const dictionary = haystack.dictionary()) {
    run.charge(needle.is_string() ? 1 : haystack.weight());
    return dictionary->find(needle) != nullptr;
  }
  if (const Sequence* const sequence = haystack.sequence()) {
    run.charge(haystack.weight());
    return std::any_of(
        sequence->items.begin(), sequence->items.end(), [&](const Value& item) { return equal(item, needle); });
  }
  if (!haystack.is_undefined()) {
    throw Failure("argument of type '" + haystack.type_name() + "' is not iterable");
  }
  return false;
}

} // namespace rora::detail::jinja
