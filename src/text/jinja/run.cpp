#include "text/jinja/run.h"

#include "text/jinja/nodes.h"
#include "text/jinja/python_text.h"

#include "checkpoint/quote.h"

#include <algorithm>

namespace rora::detail::jinja {

namespace {

std::string missing(const Value& value, const std::string& what) {
  const std::string of = value.is_none() ? "None" : "'" + value.type_name() + " object'";
  return of + " has no " + what;
}

/// The integer of an index or of a bound of a slice.
int64_t index_of(const Value& value) {
  if (!value.is_integer()) {
    value.require_defined();
    throw Failure("slice indices must be integers, found " + value.type_name());
  }
  return value.integer();
}

/// What `slice` gives of `count` items: their indices.
std::vector<size_t> sliced_indices(
    Run& run, int64_t count, const Value& begin, const Value& end, const Value& step_value) {
  const int64_t step = step_value.is_none() ? 1 : index_of(step_value);
  if (step == 0) {
    throw Failure("slice step cannot be zero");
  }
  const auto bound = [&](const Value& value, int64_t absent) {
    if (value.is_none()) {
      return absent;
    }
    int64_t at = index_of(value);
    at += at < 0 ? count : 0;
    return step > 0 ? std::clamp<int64_t>(at, 0, count) : std::clamp<int64_t>(at, -1, count - 1);
  };
  const int64_t first = bound(begin, step > 0 ? 0 : count - 1);
  const int64_t last = bound(end, step > 0 ? count : -1);
  std::vector<size_t> indices;
  // Steps beyond the count would only overflow.
  const int64_t stride = std::clamp<int64_t>(step, -count - 1, count + 1);
  for (int64_t i = first; step > 0 ? i < last : i > last; i += stride) {
    run.charge(1);
    indices.push_back(static_cast<size_t>(i));
  }
  return indices;
}

} // namespace

void Run::fail_budget() {
  throw Failure(Failure::Kind::kTooMuch, "it takes too many steps or too much memory");
}

Value Scope::find(const std::string& name) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->parent_.get()) {
    if (const auto found = scope->values_.find(name); found != scope->values_.end()) {
      return found->second;
    }
  }
  return Value::undefined("'" + name + "' is undefined");
}

Value Namespace::attribute(const std::string& name) const {
  const auto found = values_.find(name);
  return found == values_.end() ? Object::attribute(name) : found->second;
}

void Namespace::set(const std::string& name, Value value) {
  if (name.starts_with('_')) {
    throw Failure("a namespace takes no name that begins with an underscore, found '" + name + "'");
  }
  values_[name] = std::move(value);
}

std::string printed(Run& run, const Value& value) {
  run.charge(value.is_string() ? value.weight() : 8 * value.weight());
  return value.text();
}

std::vector<Value> items_of(Run& run, const Value& value) {
  std::vector<Value> items;
  if (const Sequence* const sequence = value.sequence()) {
    run.charge(sequence->items.size());
    return sequence->items;
  }
  if (const Dictionary* const dictionary = value.dictionary()) {
    run.charge(dictionary->entries().size());
    for (const auto& [key, each] : dictionary->entries()) {
      items.push_back(key);
    }
    return items;
  }
  if (value.is_string()) {
    run.charge(4 * value.string().size());
    for (std::string& character : characters_of(value.string())) {
      items.emplace_back(std::move(character));
    }
    return items;
  }
  if (!value.is_undefined()) {
    throw Failure("'" + value.type_name() + "' object is not iterable");
  }
  return items;
}

Value attribute(Run& run, const Value& value, const std::string& name) {
  value.require_defined();
  run.charge_text(name.size());
  if (const Object* const object = value.object()) {
    return object->attribute(name);
  }
  Value method = method_of(run, value, name);
  if (!method.is_undefined()) {
    return method;
  }
  if (const Dictionary* const dictionary = value.dictionary()) {
    if (const Value* const found = dictionary->find(name)) {
      return *found;
    }
  }
  return method;
}

Value item(Run& run, const Value& value, const Value& key) {
  value.require_defined();
  if (const Dictionary* const dictionary = value.dictionary()) {
    run.charge(key.is_string() ? key.weight() : value.weight());
    if (const Value* const found = dictionary->find(key)) {
      return *found;
    }
  } else if (
      key.is_integer() && (value.is_string() || (value.sequence() != nullptr && !value.sequence()->is_generator))) {
    if (value.is_string()) {
      run.charge_text(value.string().size());
    }
    const Sequence* const sequence = value.sequence();
    const size_t size = sequence != nullptr ? sequence->items.size() : count_characters(value.string());
    const auto count = static_cast<int64_t>(size);
    const int64_t at = key.integer() + (key.integer() < 0 ? count : 0);
    if (at >= 0 && at < count) {
      if (sequence != nullptr) {
        return sequence->items[static_cast<size_t>(at)];
      }
      const size_t offset = offset_of(value.string(), static_cast<size_t>(at));
      const size_t end = offset_of(std::string_view(value.string()).substr(offset), 1);
      return Value(value.string().substr(offset, end));
    }
  }
  if (key.is_string()) {
    return attribute(run, value, key.string());
  }
  run.charge(key.weight());
  return Value::undefined(missing(value, "element " + shortened(key.repr(), 80)));
}

Value slice(Run& run, const Value& value, const Value& begin, const Value& end, const Value& step) {
  value.require_defined();
  if (const Sequence* const sequence = value.sequence(); sequence != nullptr && !sequence->is_generator) {
    std::vector<Value> items;
    for (const size_t i : sliced_indices(run, static_cast<int64_t>(sequence->items.size()), begin, end, step)) {
      items.push_back(sequence->items[i]);
    }
    return sequence->is_tuple ? Value::tuple(std::move(items)) : Value::list(std::move(items));
  }
  if (value.is_string()) {
    run.charge(1 + 4 * value.string().size());
    const std::vector<std::string> characters = characters_of(value.string());
    std::string text;
    for (const size_t i : sliced_indices(run, static_cast<int64_t>(characters.size()), begin, end, step)) {
      text += characters[i];
    }
    return Value(std::move(text));
  }
  return Value::undefined(missing(value, "slices"));
}

Value call(Run& run, const Value& function, const Arguments& arguments) {
  function.require_defined();
  if (function.object() == nullptr) {
    throw Failure("'" + function.type_name() + "' object is not callable");
  }
  const Run::Depth depth(run);
  return function.object()->call(run, arguments);
}

} // namespace rora::detail::jinja
