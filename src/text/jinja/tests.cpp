#include "text/jinja/nodes.h"
#include "text/jinja/python_text.h"
#include "text/utf8.h"

#include <algorithm>
#include <array>
#include <utility>

namespace rora::detail::jinja {

namespace {

/// A test without arguments, of the value alone.
template <bool (*holds)(const Value&)>
bool of_value(Run& run, const Value& input, const Arguments& arguments) {
  bind_arguments("test", arguments, {});
  run.charge(16 * input.weight());
  return holds(input);
}

bool is_defined(const Value& value) {
  return !value.is_undefined();
}
bool is_undefined(const Value& value) {
  return value.is_undefined();
}
bool is_none(const Value& value) {
  return value.is_none();
}
bool is_boolean(const Value& value) {
  return value.is_bool();
}
bool is_true(const Value& value) {
  return value.is_bool() && value.truth();
}
bool is_false(const Value& value) {
  return value.is_bool() && !value.truth();
}
bool is_integer(const Value& value) {
  return value.is_integer() && !value.is_bool();
}
bool is_float(const Value& value) {
  return value.is_float();
}
bool is_number(const Value& value) {
  return value.is_number();
}
bool is_string(const Value& value) {
  return value.is_string();
}
bool is_mapping(const Value& value) {
  return value.dictionary() != nullptr;
}
// An undefined value can be iterated over, indexed and called as far as Python sees.
bool is_iterable(const Value& value) {
  return value.is_undefined() || value.is_string() || value.sequence() != nullptr || value.dictionary() != nullptr;
}
bool is_sequence(const Value& value) {
  return is_iterable(value) && !(value.sequence() != nullptr && value.sequence()->is_generator);
}
bool is_callable(const Value& value) {
  return value.is_undefined() || (value.object() != nullptr && value.object()->is_callable());
}

bool parity(const Value& value, int64_t remainder) {
  value.require_defined();
  if (!value.is_integer()) {
    throw Failure("an integer is required, found " + value.type_name());
  }
  return (value.integer() % 2 != 0 ? 1 : 0) == remainder;
}
bool is_even(const Value& value) {
  return parity(value, 0);
}
bool is_odd(const Value& value) {
  return parity(value, 1);
}

/// Whether there are letters and all have this case.
bool has_case(const Value& value, bool upper) {
  const std::string text = value.text();
  bool any = false;
  for (size_t offset = 0; offset < text.size(); offset += character_length(text, offset)) {
    const char32_t c = code_point_at(text, offset);
    if (upper ? is_lower_letter(c) : is_upper_letter(c)) {
      return false;
    }
    any = any || (upper ? is_upper_letter(c) : is_lower_letter(c));
  }
  return any;
}
bool is_lower(const Value& value) {
  return has_case(value, false);
}
bool is_upper(const Value& value) {
  return has_case(value, true);
}

bool is_divisible(Run& run, const Value& input, const Arguments& arguments) {
  const Value divisor = bind_arguments("divisibleby", arguments, {"num"}, 1)[0];
  return equal(arithmetic(run, "%", input, divisor), Value(int64_t{0}));
}

bool is_same(Run& run, const Value& input, const Arguments& arguments) {
  const Value other = bind_arguments("sameas", arguments, {"other"}, 1)[0];
  run.charge(input.weight());
  return input.variant().index() == other.variant().index() && equal(input, other);
}

bool is_in(Run& run, const Value& input, const Arguments& arguments) {
  return contains(run, bind_arguments("in", arguments, {"seq"}, 1)[0], input);
}

enum class Order { kEqual, kUnequal, kLess, kLessOrEqual, kGreater, kGreaterOrEqual };

template <Order order>
bool compares(Run& run, const Value& input, const Arguments& arguments) {
  const Value other = bind_arguments("test", arguments, {"other"}, 1)[0];
  run.charge(std::min(input.weight(), other.weight()));
  switch (order) {
    case Order::kEqual:
      return equal(input, other);
    case Order::kUnequal:
      return !equal(input, other);
    case Order::kLess:
      return less(input, other);
    case Order::kLessOrEqual:
      return less(input, other) || equal(input, other);
    case Order::kGreater:
      return less(other, input);
    default:
      return less(other, input) || equal(input, other);
  }
}

bool is_filter(Run& run, const Value& input, const Arguments& arguments) {
  bind_arguments("filter", arguments, {});
  return find_filter(printed(run, input)) != nullptr;
}

bool is_test(Run& run, const Value& input, const Arguments& arguments) {
  bind_arguments("test", arguments, {});
  return find_test(printed(run, input)) != nullptr;
}

constexpr auto kTests = std::to_array<std::pair<const char*, Test>>({
    {"defined", of_value<is_defined>},
    {"undefined", of_value<is_undefined>},
    {"none", of_value<is_none>},
    {"boolean", of_value<is_boolean>},
    {"true", of_value<is_true>},
    {"false", of_value<is_false>},
    {"integer", of_value<is_integer>},
    {"float", of_value<is_float>},
    {"number", of_value<is_number>},
    {"string", of_value<is_string>},
    {"mapping", of_value<is_mapping>},
    {"sequence", of_value<is_sequence>},
    {"iterable", of_value<is_iterable>},
    {"callable", of_value<is_callable>},
    {"even", of_value<is_even>},
    {"odd", of_value<is_odd>},
    {"lower", of_value<is_lower>},
    {"upper", of_value<is_upper>},
    {"divisibleby", is_divisible},
    {"sameas", is_same},
    {"in", is_in},
    {"filter", is_filter},
    {"test", is_test},
    {"eq", compares<Order::kEqual>},
    {"equalto", compares<Order::kEqual>},
    {"==", compares<Order::kEqual>},
    {"ne", compares<Order::kUnequal>},
    {"!=", compares<Order::kUnequal>},
    {"lt", compares<Order::kLess>},
    {"lessthan", compares<Order::kLess>},
    {"<", compares<Order::kLess>},
    {"le", compares<Order::kLessOrEqual>},
    {"<=", compares<Order::kLessOrEqual>},
    {"gt", compares<Order::kGreater>},
    {"greaterthan", compares<Order::kGreater>},
    {">", compares<Order::kGreater>},
    {"ge", compares<Order::kGreaterOrEqual>},
    {">=", compares<Order::kGreaterOrEqual>},
});

} // namespace

Test find_test(const std::string& name) {
  for (const auto& [each, test] : kTests) {
    if (name == each) {
      return test;
    }
  }
  return nullptr;
}

} // namespace rora::detail::jinja
