#include "text/jinja/value.h"

#include "text/jinja/python_text.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace rora::detail::jinja {

namespace {

constexpr int kMaxDepth = 100;
constexpr size_t kMaxWeight = size_t{1} << 22;

int checked_depth(int depth) {
  if (depth > kMaxDepth) {
    throw Failure(Failure::Kind::kTooMuch, "a value is nested deeper than 100 levels");
  }
  return depth;
}

size_t checked_weight(size_t weight) {
  if (weight > kMaxWeight) {
    throw Failure(Failure::Kind::kTooMuch, "a value is too large");
  }
  return weight;
}

Value make_sequence(std::vector<Value> items, bool is_tuple) {
  auto sequence = std::make_shared<Sequence>();
  for (const Value& item : items) {
    sequence->depth = std::max(sequence->depth, checked_depth(item.depth() + 1));
    sequence->weight = checked_weight(sequence->weight + item.weight());
  }
  sequence->items = std::move(items);
  sequence->is_tuple = is_tuple;
  return Value(std::shared_ptr<const Sequence>(std::move(sequence)));
}

/// A number that is compared with one of another type, without rounding: this type holds 64 bits of an integer.
long double exact(const Value& value) {
  return value.is_integer() ? static_cast<long double>(value.integer()) : static_cast<long double>(value.number());
}

} // namespace

Value Object::attribute(const std::string& name) const {
  return Value::undefined(text() + " has no attribute " + python_repr(name));
}

Value Object::call(Run&, const Arguments&) {
  throw Failure(text() + " is not callable");
}

Value::Value(std::shared_ptr<const Sequence> sequence) : value_(std::move(sequence)) {}

Value::Value(Dictionary dictionary) : value_(std::make_shared<const Dictionary>(std::move(dictionary))) {}

Value Value::undefined(std::string what) {
  Value value;
  value.value_ = Undefined{std::make_shared<const std::string>(std::move(what))};
  return value;
}

Value Value::list(std::vector<Value> items) {
  return make_sequence(std::move(items), false);
}

Value Value::tuple(std::vector<Value> items) {
  return make_sequence(std::move(items), true);
}

const Sequence* Value::sequence() const {
  const auto* const found = std::get_if<std::shared_ptr<const Sequence>>(&value_);
  return found == nullptr ? nullptr : found->get();
}

const Dictionary* Value::dictionary() const {
  const auto* const found = std::get_if<std::shared_ptr<const Dictionary>>(&value_);
  return found == nullptr ? nullptr : found->get();
}

Object* Value::object() const {
  const auto* const found = std::get_if<Object*>(&value_);
  return found == nullptr ? nullptr : *found;
}

int64_t Value::integer() const {
  return is_bool() ? static_cast<int64_t>(std::get<bool>(value_)) : std::get<int64_t>(value_);
}

double Value::number() const {
  return is_integer() ? static_cast<double>(integer()) : std::get<double>(value_);
}

int Value::depth() const {
  if (const Sequence* const items = sequence()) {
    return items->depth;
  }
  const Dictionary* const entries = dictionary();
  return entries == nullptr ? 0 : entries->depth();
}

size_t Value::weight() const {
  if (is_string()) {
    return 1 + string().size() / 16;
  }
  if (const Sequence* const items = sequence()) {
    return items->weight;
  }
  const Dictionary* const entries = dictionary();
  return entries == nullptr ? 1 : entries->weight();
}

Value Value::generator(std::vector<Value> items) {
  const Value list = make_sequence(std::move(items), false);
  auto sequence = std::make_shared<Sequence>(*list.sequence());
  sequence->is_generator = true;
  return Value(std::shared_ptr<const Sequence>(std::move(sequence)));
}

bool Value::truth() const {
  if (is_number()) {
    return number() != 0;
  }
  if (is_string()) {
    return !string().empty();
  }
  if (const Sequence* const items = sequence()) {
    return items->is_generator || !items->items.empty();
  }
  if (const Dictionary* const entries = dictionary()) {
    return !entries->entries().empty();
  }
  return object() != nullptr;
}

std::string Value::text() const {
  if (is_undefined()) {
    return "";
  }
  return is_string() ? string() : repr();
}

std::string Value::repr() const {
  if (is_undefined()) {
    return "Undefined";
  }
  if (is_none()) {
    return "None";
  }
  if (is_bool()) {
    return std::get<bool>(value_) ? "True" : "False";
  }
  if (is_integer()) {
    return std::to_string(integer());
  }
  if (is_float()) {
    return text_of(number());
  }
  if (is_string()) {
    return python_repr(string());
  }
  if (const Object* const known = object()) {
    return known->text();
  }
  std::string parts;
  const auto separate = [&] { parts += parts.empty() ? "" : ", "; };
  if (const Sequence* const items = sequence()) {
    if (items->is_generator) {
      throw Failure("a generator is printed: `| list` is missing");
    }
    for (const Value& item : items->items) {
      separate();
      parts += item.repr();
    }
    if (!items->is_tuple) {
      return "[" + parts + "]";
    }
    return "(" + parts + (items->items.size() == 1 ? ",)" : ")");
  }
  for (const auto& [key, value] : dictionary()->entries()) {
    separate();
    parts += key.repr() + ": " + value.repr();
  }
  return "{" + parts + "}";
}

std::string Value::type_name() const {
  if (is_undefined()) {
    return "Undefined";
  }
  if (is_none()) {
    return "NoneType";
  }
  if (is_bool()) {
    return "bool";
  }
  if (is_number()) {
    return is_float() ? "float" : "int";
  }
  if (is_string()) {
    return "str";
  }
  if (const Sequence* const items = sequence()) {
    return items->is_generator ? "generator" : (items->is_tuple ? "tuple" : "list");
  }
  return dictionary() != nullptr ? "dict" : "object";
}

void Value::require_defined() const {
  if (const auto* const undefined = std::get_if<Undefined>(&value_)) {
    throw Failure(undefined->what == nullptr ? "an undefined value is used" : *undefined->what);
  }
}

bool equal(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    return exact(a) == exact(b);
  }
  if (a.is_string() && b.is_string()) {
    return a.string() == b.string();
  }
  if (const Sequence* const left = a.sequence(), * const right = b.sequence(); left != nullptr && right != nullptr) {
    return left->is_tuple == right->is_tuple && !left->is_generator && !right->is_generator &&
        left->items.size() == right->items.size() &&
        std::equal(left->items.begin(), left->items.end(), right->items.begin(), equal);
  }
  if (const Dictionary* const left = a.dictionary(), * const right = b.dictionary();
      left != nullptr && right != nullptr) {
    const auto is_in_right = [&](const auto& entry) {
      const Value* const found = right->find(entry.first);
      return found != nullptr && equal(entry.second, *found);
    };
    return left->entries().size() == right->entries().size() &&
        std::all_of(left->entries().begin(), left->entries().end(), is_in_right);
  }
  if (a.object() != nullptr || b.object() != nullptr) {
    return a.object() == b.object();
  }
  return (a.is_none() && b.is_none()) || (a.is_undefined() && b.is_undefined());
}

bool less(const Value& a, const Value& b) {
  a.require_defined();
  b.require_defined();
  if (a.is_number() && b.is_number()) {
    return exact(a) < exact(b);
  }
  if (a.is_string() && b.is_string()) {
    return a.string() < b.string(); // UTF-8's order is that of code points
  }
  const Sequence* const left = a.sequence();
  const Sequence* const right = b.sequence();
  if (left != nullptr && right != nullptr && left->is_tuple == right->is_tuple) {
    for (size_t i = 0; i < std::min(left->items.size(), right->items.size()); ++i) {
      if (!equal(left->items[i], right->items[i])) {
        return less(left->items[i], right->items[i]);
      }
    }
    return left->items.size() < right->items.size();
  }
  throw Failure("'<' not supported between instances of '" + a.type_name() + "' and '" + b.type_name() + "'");
}

void Dictionary::set(const Value& key, Value value) {
  const bool is_hashable = key.dictionary() == nullptr && (key.sequence() == nullptr || key.sequence()->is_tuple);
  if (!is_hashable) {
    throw Failure("unhashable type: '" + key.type_name() + "'");
  }
  depth_ = std::max(depth_, checked_depth(std::max(key.depth(), value.depth()) + 1));
  weight_ = checked_weight(weight_ + key.weight() + value.weight());
  if (const Value* const found = find(key)) {
    *const_cast<Value*>(found) = std::move(value);
    return;
  }
  if (key.is_string()) {
    by_string_[key.string()] = entries_.size();
  }
  entries_.emplace_back(key, std::move(value));
}

const Value* Dictionary::find(const Value& key) const {
  if (key.is_string()) {
    return find(key.string());
  }
  const auto found =
      std::find_if(entries_.begin(), entries_.end(), [&](const auto& entry) { return equal(entry.first, key); });
  return found == entries_.end() ? nullptr : &found->second;
}

const Value* Dictionary::find(const std::string& key) const {
  const auto found = by_string_.find(key);
  return found == by_string_.end() ? nullptr : &entries_[found->second].second;
}

std::vector<Value> bind_arguments(
    const std::string& function, const Arguments& arguments, const std::vector<std::string>& names, size_t required) {
  std::vector<Value> values(names.size());
  std::vector<bool> given(names.size());
  if (arguments.positional.size() > names.size()) {
    throw Failure(
        function + "() takes at most " + std::to_string(names.size()) + " arguments, found " +
        std::to_string(arguments.positional.size()));
  }
  for (size_t i = 0; i < arguments.positional.size(); ++i) {
    values[i] = arguments.positional[i];
    given[i] = true;
  }
  for (const auto& [name, value] : arguments.named) {
    const auto at = static_cast<size_t>(std::find(names.begin(), names.end(), name) - names.begin());
    if (at == names.size()) {
      throw Failure(function + "() got an unexpected keyword argument '" + name + "'");
    }
    if (given[at]) {
      throw Failure(function + "() got multiple values for argument '" + name + "'");
    }
    values[at] = value;
    given[at] = true;
  }
  for (size_t i = 0; i < required; ++i) {
    if (!given[i]) {
      throw Failure(function + "() is missing the argument '" + names[i] + "'");
    }
  }
  return values;
}

} // namespace rora::detail::jinja
