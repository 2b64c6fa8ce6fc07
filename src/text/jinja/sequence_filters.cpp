#include "text/jinja/filters.h"
#include "text/jinja/python_text.h"

#include <algorithm>
#include <array>

namespace rora::detail::jinja {

namespace {

/// A key as attributes and items lead to it: "a.b.0".
Value key_of(Run& run, Value value, const Value& path) {
  if (path.is_integer()) {
    return item(run, value, path);
  }
  const std::string dot = ".";
  for (const std::string& step : split(path.text(), &dot, -1, false)) {
    const bool is_index =
        !step.empty() && step.size() < 10 && step.find_first_not_of("0123456789") == std::string::npos;
    value = item(run, value, is_index ? Value(int64_t{std::stoll(step)}) : Value(step));
  }
  return value;
}

/// The key by which items are compared: the attribute, if one is asked for, in small letters unless case counts.
Value sorting_key(Run& run, const Value& value, const Value& attribute, bool case_sensitive) {
  Value key = attribute.is_undefined() || attribute.is_none() ? value : key_of(run, value, attribute);
  return key.is_string() && !case_sensitive ? Value(lower(key.string())) : key;
}

Value length(Run& run, const Value& input, const Arguments& arguments) {
  bind_arguments("length", arguments, {});
  if (input.is_string()) {
    run.charge_text(input.string().size());
    return Value(count_characters(input.string()));
  }
  if (input.is_undefined()) {
    return Value(int64_t{0});
  }
  if (input.sequence() != nullptr && !input.sequence()->is_generator) {
    return Value(input.sequence()->items.size());
  }
  if (input.dictionary() != nullptr) {
    return Value(input.dictionary()->entries().size());
  }
  throw Failure("object of type '" + input.type_name() + "' has no len()");
}

Value default_value(Run&, const Value& input, const Arguments& arguments) {
  const std::vector<Value> values = bind_arguments("default", arguments, {"default_value", "boolean"});
  const bool is_absent = input.is_undefined() || (values[1].truth() && !input.truth());
  return !is_absent ? input : (values[0].is_undefined() ? Value("") : values[0]);
}

Value first(Run& run, const Value& input, const Arguments& arguments) {
  bind_arguments("first", arguments, {});
  const std::vector<Value> items = items_of(run, input);
  return items.empty() ? Value::undefined("No first item, sequence was empty.") : items.front();
}

Value last(Run& run, const Value& input, const Arguments& arguments) {
  bind_arguments("last", arguments, {});
  const std::vector<Value> items = items_of(run, input);
  return items.empty() ? Value::undefined("No last item, sequence was empty.") : items.back();
}

Value to_list(Run& run, const Value& input, const Arguments& arguments) {
  bind_arguments("list", arguments, {});
  return Value::list(items_of(run, input));
}

Value reverse(Run& run, const Value& input, const Arguments& arguments) {
  bind_arguments("reverse", arguments, {});
  std::vector<Value> items = items_of(run, input);
  std::reverse(items.begin(), items.end());
  if (!input.is_string()) {
    return Value::generator(std::move(items));
  }
  std::string text;
  for (const Value& character : items) {
    text += character.string();
  }
  return Value(std::move(text));
}

Value join(Run& run, const Value& input, const Arguments& arguments) {
  const std::vector<Value> values = bind_arguments("join", arguments, {"d", "attribute"});
  const std::string between = printed(run, values[0]);
  std::string text;
  bool is_first = true;
  for (const Value& each : items_of(run, input)) {
    run.charge_text(between.size());
    text += is_first ? "" : between;
    text += printed(run, values[1].is_undefined() || values[1].is_none() ? each : key_of(run, each, values[1]));
    is_first = false;
  }
  return Value(std::move(text));
}

Value items(Run& run, const Value& input, const Arguments& arguments) {
  bind_arguments("items", arguments, {});
  if (input.is_undefined()) {
    return Value::generator({});
  }
  if (input.dictionary() == nullptr) {
    throw Failure("can only get item pairs from a mapping, found " + input.type_name());
  }
  return Value::generator(items_of(run, call(run, method_of(run, input, "items"), {})));
}

/// Items in the order of keys, which `charge` for comparing.
void sort_by_key(Run& run, std::vector<std::pair<Value, Value>>& keyed, bool reverse) {
  for (const auto& [key, value] : keyed) {
    run.charge(20 * key.weight());
  }
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    return reverse ? less(b.first, a.first) : less(a.first, b.first);
  });
}

Value sort(Run& run, const Value& input, const Arguments& arguments) {
  const std::vector<Value> values = bind_arguments("sort", arguments, {"reverse", "case_sensitive", "attribute"});
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& each : items_of(run, input)) {
    keyed.emplace_back(sorting_key(run, each, values[2], values[1].truth()), each);
  }
  sort_by_key(run, keyed, values[0].truth());
  std::vector<Value> sorted;
  for (auto& [key, value] : keyed) {
    sorted.push_back(std::move(value));
  }
  return Value::list(std::move(sorted));
}

Value sort_dictionary(Run& run, const Value& input, const Arguments& arguments) {
  const std::vector<Value> values = bind_arguments("dictsort", arguments, {"case_sensitive", "by", "reverse"});
  const std::string by = values[1].is_undefined() ? "key" : values[1].text();
  if (input.dictionary() == nullptr || (by != "key" && by != "value")) {
    throw Failure("dictsort takes a mapping and by = 'key' or 'value'");
  }
  std::vector<std::pair<Value, Value>> keyed;
  for (const auto& [key, value] : input.dictionary()->entries()) {
    keyed.emplace_back(
        sorting_key(run, by == "key" ? key : value, Value(), values[0].truth()), Value::tuple({key, value}));
  }
  sort_by_key(run, keyed, values[2].truth());
  std::vector<Value> sorted;
  for (auto& [key, value] : keyed) {
    sorted.push_back(std::move(value));
  }
  return Value::list(std::move(sorted));
}

Value unique(Run& run, const Value& input, const Arguments& arguments) {
  const std::vector<Value> values = bind_arguments("unique", arguments, {"case_sensitive", "attribute"});
  Dictionary seen;
  std::vector<Value> kept;
  for (const Value& each : items_of(run, input)) {
    const Value key = sorting_key(run, each, values[1], values[0].truth());
    run.charge(key.is_string() ? key.weight() : 1 + seen.weight());
    if (seen.find(key) == nullptr) {
      seen.set(key, Value(true));
      kept.push_back(each);
    }
  }
  return Value::generator(std::move(kept));
}

template <bool is_max>
Value extreme(Run& run, const Value& input, const Arguments& arguments) {
  const std::vector<Value> values = bind_arguments(is_max ? "max" : "min", arguments, {"case_sensitive", "attribute"});
  Value best = Value::undefined("No aggregated item, sequence was empty.");
  Value best_key;
  for (const Value& each : items_of(run, input)) {
    const Value key = sorting_key(run, each, values[1], values[0].truth());
    run.charge(key.weight());
    if (best.is_undefined() || (is_max ? less(best_key, key) : less(key, best_key))) {
      best = each;
      best_key = key;
    }
  }
  return best;
}

Value sum(Run& run, const Value& input, const Arguments& arguments) {
  const std::vector<Value> values = bind_arguments("sum", arguments, {"attribute", "start"});
  Value total = values[1].is_undefined() ? Value(int64_t{0}) : values[1];
  for (const Value& each : items_of(run, input)) {
    total = arithmetic(
        run, "+", total, values[0].is_undefined() || values[0].is_none() ? each : key_of(run, each, values[0]));
  }
  return total;
}

/// The first positional argument as a name, taken out.
std::string take_name(Arguments& arguments, const std::string& filter) {
  if (arguments.positional.empty() || !arguments.positional.front().is_string()) {
    throw Failure(filter + " needs a name");
  }
  const std::string name = arguments.positional.front().string();
  arguments.positional.erase(arguments.positional.begin());
  return name;
}

Value map(Run& run, const Value& input, const Arguments& arguments) {
  std::vector<Value> mapped;
  if (arguments.positional.empty() && !arguments.named.empty()) {
    const std::vector<Value> values = bind_arguments("map", arguments, {"attribute", "default"}, 1);
    for (const Value& each : items_of(run, input)) {
      const Value key = key_of(run, each, values[0]);
      mapped.push_back(key.is_undefined() && !values[1].is_undefined() ? values[1] : key);
    }
    return Value::generator(std::move(mapped));
  }
  Arguments rest = arguments;
  const std::string name = take_name(rest, "map");
  const Filter filter = find_filter(name);
  if (filter == nullptr) {
    throw Failure(Failure::Kind::kMalformed, "the filter '" + name + "' is not supported");
  }
  for (const Value& each : items_of(run, input)) {
    const Run::Depth depth(run);
    run.charge(1);
    mapped.push_back(filter(run, each, rest));
  }
  return Value::generator(std::move(mapped));
}

/// `select`, `reject` and, by an attribute, `selectattr`, `rejectattr`.
template <bool is_select, bool by_attribute>
Value choose(Run& run, const Value& input, const Arguments& arguments) {
  Arguments rest = arguments;
  const std::string filter = std::string(is_select ? "select" : "reject") + (by_attribute ? "attr" : "");
  Value attribute;
  if (by_attribute) {
    if (rest.positional.empty()) {
      throw Failure(filter + " needs the name of an attribute");
    }
    attribute = rest.positional.front();
    rest.positional.erase(rest.positional.begin());
  }
  Test test = nullptr;
  if (!rest.positional.empty()) {
    const std::string name = take_name(rest, filter);
    test = find_test(name);
    if (test == nullptr) {
      throw Failure(Failure::Kind::kMalformed, "the test '" + name + "' is not supported");
    }
  }
  std::vector<Value> chosen;
  for (const Value& each : items_of(run, input)) {
    run.charge(1);
    const Value asked = by_attribute ? key_of(run, each, attribute) : each;
    if ((test == nullptr ? asked.truth() : test(run, asked, rest)) == is_select) {
      chosen.push_back(each);
    }
  }
  return Value::generator(std::move(chosen));
}

Value attribute_of(Run& run, const Value& input, const Arguments& arguments) {
  const Value name = bind_arguments("attr", arguments, {"name"}, 1)[0];
  input.require_defined();
  return input.object() != nullptr ? input.object()->attribute(name.text()) : method_of(run, input, name.text());
}

} // namespace

const FilterList& sequence_filters() {
  static const FilterList filters = {
      {"length", length},
      {"count", length},
      {"default", default_value},
      {"d", default_value},
      {"first", first},
      {"last", last},
      {"list", to_list},
      {"reverse", reverse},
      {"join", join},
      {"items", items},
      {"sort", sort},
      {"dictsort", sort_dictionary},
      {"unique", unique},
      {"min", extreme<false>},
      {"max", extreme<true>},
      {"sum", sum},
      {"map", map},
      {"select", choose<true, false>},
      {"reject", choose<false, false>},
      {"selectattr", choose<true, true>},
      {"rejectattr", choose<false, true>},
      {"attr", attribute_of},
  };
  return filters;
}

Filter find_filter(const std::string& name) {
  for (const FilterList* const filters : {&text_filters(), &number_filters(), &sequence_filters()}) {
    for (const auto& [each, filter] : *filters) {
      if (name == each) {
        return filter;
      }
    }
  }
  return nullptr;
}

} // namespace rora::detail::jinja
