#include "checkpoint/quote.h"
#include "text/jinja/filters.h"
#include "text/jinja/nodes.h"
#include "text/jinja/python_text.h"
#include "text/utf8.h"

#include <algorithm>
#include <array>

namespace rora::detail::jinja {

namespace {

using Body = Value (*)(Run&, const Value&, const Arguments&);

class Method : public Object {
 public:
  Method(Value self, const char* name, Body body) : self_(std::move(self)), name_(name), body_(body) {}
  std::string text() const override {
    return "<built-in method " + std::string(name_) + " of " + self_.type_name() + " object>";
  }
  bool is_callable() const override {
    return true;
  }
  Value call(Run& run, const Arguments& arguments) override {
    run.charge(self_.weight());
    return body_(run, self_, arguments);
  }

 private:
  Value self_;
  const char* name_;
  Body body_;
};

const std::string& require_text(const Value& value) {
  value.require_defined();
  if (!value.is_string()) {
    throw Failure("a text is required, found " + value.type_name());
  }
  return value.string();
}

template <std::string (*change)(std::string_view)>
Value changed(Run& run, const Value& self, const Arguments& arguments) {
  bind_arguments("method", arguments, {});
  run.charge(self.string().size() / 4);
  return Value(change(self.string()));
}

template <bool left, bool right>
Value stripped(Run& run, const Value& self, const Arguments& arguments) {
  const auto characters = optional_text(run, bind_arguments("strip", arguments, {"chars"})[0]);
  run.charge(characters ? self.string().size() / 16 * (1 + characters->size()) / 16 : 0);
  return Value(strip(self.string(), characters ? &*characters : nullptr, left, right));
}

Value list_of(Run& run, std::vector<std::string> texts) {
  std::vector<Value> items;
  for (std::string& text : texts) {
    run.charge_text(text.size());
    items.emplace_back(std::move(text));
  }
  return Value::list(std::move(items));
}

template <bool from_right>
Value split_text(Run& run, const Value& self, const Arguments& arguments) {
  const std::vector<Value> values = bind_arguments("split", arguments, {"sep", "maxsplit"});
  const auto separator = optional_text(run, values[0]);
  run.charge(self.string().size());
  run.charge(from_right && separator ? self.string().size() / 16 * separator->size() / 16 : 0);
  return list_of(run, split(self.string(), separator ? &*separator : nullptr, integer_or(values[1], -1), from_right));
}

Value lines_of(Run& run, const Value& self, const Arguments& arguments) {
  const Value keep_ends = bind_arguments("splitlines", arguments, {"keepends"})[0];
  run.charge(self.string().size());
  return list_of(run, split_lines(self.string(), keep_ends.truth()));
}

/// Where a part of a text stands, first or last. From the right it may be looked for at each place anew.
size_t find_part(Run& run, const std::string& text, const std::string& part, bool from_right) {
  if (!from_right) {
    return find_linear(text, part, 0);
  }
  run.charge(text.size() / 16 * (1 + part.size()) / 16);
  return text.rfind(part);
}

template <bool from_right>
Value partitioned(Run& run, const Value& self, const Arguments& arguments) {
  const std::string& text = self.string();
  const Value argument = bind_arguments("partition", arguments, {"sep"}, 1)[0];
  const std::string& separator = require_text(argument);
  if (separator.empty()) {
    throw Failure("empty separator");
  }
  const size_t found = find_part(run, text, separator, from_right);
  if (found == std::string::npos) {
    return from_right ? Value::tuple({Value(""), Value(""), self}) : Value::tuple({self, Value(""), Value("")});
  }
  return Value::tuple({Value(text.substr(0, found)), argument, Value(text.substr(found + separator.size()))});
}

/// `startswith` and `endswith`: of one text or of any of a tuple.
template <bool at_end>
Value has_affix(Run& run, const Value& self, const Arguments& arguments) {
  const Value affix =
      bind_arguments(at_end ? "endswith" : "startswith", arguments, {at_end ? "suffix" : "prefix"}, 1)[0];
  const bool is_tuple = affix.sequence() != nullptr && affix.sequence()->is_tuple;
  const std::vector<Value> affixes = is_tuple ? items_of(run, affix) : std::vector<Value>{affix};
  return Value(std::any_of(affixes.begin(), affixes.end(), [&](const Value& each) {
    return at_end ? self.string().ends_with(require_text(each)) : self.string().starts_with(require_text(each));
  }));
}

template <bool at_end>
Value without_affix(Run&, const Value& self, const Arguments& arguments) {
  const Value argument = bind_arguments("removeprefix", arguments, {"affix"}, 1)[0];
  const std::string& affix = require_text(argument);
  const std::string& text = self.string();
  if (at_end) {
    return text.ends_with(affix) ? Value(text.substr(0, text.size() - affix.size())) : self;
  }
  return text.starts_with(affix) ? Value(text.substr(affix.size())) : self;
}

int64_t occurrences(const std::string& text, const std::string& part) {
  if (part.empty()) {
    return static_cast<int64_t>(count_characters(text)) + 1;
  }
  int64_t count = 0;
  for (size_t at = find_linear(text, part, 0); at != std::string::npos;
       at = find_linear(text, part, at + part.size())) {
    ++count;
  }
  return count;
}

Value count_text(Run&, const Value& self, const Arguments& arguments) {
  const Value part = bind_arguments("count", arguments, {"sub"}, 1)[0];
  return Value(occurrences(self.string(), require_text(part)));
}

template <bool from_right, bool must_be_there>
Value find_text(Run& run, const Value& self, const Arguments& arguments) {
  const Value part = bind_arguments("find", arguments, {"sub"}, 1)[0];
  const std::string& text = self.string();
  const size_t found = find_part(run, text, require_text(part), from_right);
  if (found != std::string::npos) {
    return Value(count_characters(std::string_view(text).substr(0, found)));
  }
  if (must_be_there) {
    throw Failure("substring not found");
  }
  return Value(int64_t{-1});
}

Value replaced(Run& run, const Value& self, const Arguments& arguments) {
  const std::vector<Value> values = bind_arguments("replace", arguments, {"old", "new", "count"}, 2);
  const std::string& old = require_text(values[0]);
  const std::string& with = require_text(values[1]);
  const int64_t limit = integer_or(values[2], -1);
  const int64_t all = occurrences(self.string(), old);
  const auto count = static_cast<size_t>(limit < 0 ? all : std::min(limit, all));
  run.charge(count * (1 + with.size() / 16));
  run.charge_text(self.string().size());
  return Value(replace(self.string(), old, with, limit));
}

Value joined(Run& run, const Value& self, const Arguments& arguments) {
  std::string text;
  bool is_first = true;
  for (const Value& each : items_of(run, bind_arguments("join", arguments, {"iterable"}, 1)[0])) {
    run.charge_text(self.string().size() + require_text(each).size());
    text += is_first ? "" : self.string();
    text += each.string();
    is_first = false;
  }
  return Value(std::move(text));
}

Value formatted(Run& run, const Value& self, const Arguments& arguments) {
  return Value(format_braces(run, self.string(), arguments));
}

/// `isalpha` and its like: there is a character, and each is one.
template <bool (*is)(char32_t)>
Value all_are(Run& run, const Value& self, const Arguments& arguments) {
  bind_arguments("method", arguments, {});
  const std::string& text = self.string();
  run.charge(8 * text.size());
  for (size_t offset = 0; offset < text.size(); offset += character_length(text, offset)) {
    if (!is(code_point_at(text, offset))) {
      return Value(false);
    }
  }
  return Value(!text.empty());
}

bool is_letter_or_digit(char32_t c) {
  return is_letter(c) || is_digit(c);
}

template <bool upper>
Value has_case(Run& run, const Value& self, const Arguments& arguments) {
  return Value(find_test(upper ? "upper" : "lower")(run, self, arguments));
}

Value get(Run&, const Value& self, const Arguments& arguments) {
  const std::vector<Value> values = bind_arguments("get", arguments, {"key", "default"}, 1);
  const Value* const found = self.dictionary()->find(values[0]);
  return found != nullptr ? *found
                          : (values[1].is_undefined() && arguments.positional.size() < 2 ? Value(None{}) : values[1]);
}

template <bool keys, bool values>
Value entries(Run& run, const Value& self, const Arguments& arguments) {
  bind_arguments("method", arguments, {});
  std::vector<Value> items;
  for (const auto& [key, value] : self.dictionary()->entries()) {
    run.charge(2);
    items.push_back(keys && values ? Value::tuple({key, value}) : (keys ? key : value));
  }
  return Value::list(std::move(items));
}

Value copied(Run&, const Value& self, const Arguments& arguments) {
  bind_arguments("copy", arguments, {});
  return self;
}

Value count_items(Run&, const Value& self, const Arguments& arguments) {
  const Value item = bind_arguments("count", arguments, {"value"}, 1)[0];
  const std::vector<Value>& items = self.sequence()->items;
  return Value(static_cast<int64_t>(
      std::count_if(items.begin(), items.end(), [&](const Value& each) { return equal(each, item); })));
}

Value index_of_item(Run&, const Value& self, const Arguments& arguments) {
  const Value item = bind_arguments("index", arguments, {"value"}, 1)[0];
  const std::vector<Value>& items = self.sequence()->items;
  const auto found = std::find_if(items.begin(), items.end(), [&](const Value& each) { return equal(each, item); });
  if (found == items.end()) {
    throw Failure(item.repr() + " is not in list");
  }
  return Value(static_cast<size_t>(found - items.begin()));
}

using Methods = std::pair<const char*, Body>;

constexpr auto kTextMethods = std::to_array<Methods>({
    {"upper", changed<upper>},
    {"lower", changed<lower>},
    {"title", changed<title>},
    {"capitalize", changed<capitalize>},
    {"strip", stripped<true, true>},
    {"lstrip", stripped<true, false>},
    {"rstrip", stripped<false, true>},
    {"split", split_text<false>},
    {"rsplit", split_text<true>},
    {"splitlines", lines_of},
    {"partition", partitioned<false>},
    {"rpartition", partitioned<true>},
    {"startswith", has_affix<false>},
    {"endswith", has_affix<true>},
    {"removeprefix", without_affix<false>},
    {"removesuffix", without_affix<true>},
    {"count", count_text},
    {"find", find_text<false, false>},
    {"rfind", find_text<true, false>},
    {"index", find_text<false, true>},
    {"rindex", find_text<true, true>},
    {"replace", replaced},
    {"join", joined},
    {"format", formatted},
    {"isalpha", all_are<is_letter>},
    {"isdecimal", all_are<is_decimal>},
    {"isdigit", all_are<is_digit>},
    {"isalnum", all_are<is_letter_or_digit>},
    {"isspace", all_are<is_python_space>},
    {"isupper", has_case<true>},
    {"islower", has_case<false>},
});

constexpr auto kDictionaryMethods = std::to_array<Methods>({
    {"get", get},
    {"items", entries<true, true>},
    {"keys", entries<true, false>},
    {"values", entries<false, true>},
    {"copy", copied},
});

constexpr auto kSequenceMethods = std::to_array<Methods>({
    {"count", count_items},
    {"index", index_of_item},
    {"copy", copied},
});

// Python's other methods: what calls them must hear of it.
constexpr auto kOtherTextMethods = std::to_array<std::string_view>(
    {"casefold", "center", "encode", "expandtabs", "format_map", "isascii", "isidentifier", "isnumeric", "isprintable",
     "istitle", "ljust", "maketrans", "rjust", "swapcase", "translate", "zfill"});
constexpr auto kChangingMethods = std::to_array<std::string_view>(
    {"append", "clear", "extend", "insert", "pop", "popitem", "remove", "reverse", "setdefault", "sort", "update"});

template <typename List>
Value find_method(Run& run, const Value& value, const std::string& name, const List& methods) {
  for (const auto& [each, body] : methods) {
    if (name == each) {
      return Value(static_cast<Object*>(run.make<Method>(value, each, body)));
    }
  }
  return {};
}

template <typename List>
bool holds(const List& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

} // namespace

Value method_of(Run& run, const Value& value, const std::string& name) {
  const std::string shown = shortened(name, 80);
  const std::string what = "'" + shown + "' of '" + value.type_name() + "' object";
  Value method;
  if (value.is_string()) {
    method = find_method(run, value, name, kTextMethods);
    if (holds(kOtherTextMethods, name)) {
      throw Failure("the method " + what + " is not supported");
    }
  } else if (value.dictionary() != nullptr) {
    method = find_method(run, value, name, kDictionaryMethods);
  } else if (value.sequence() != nullptr) {
    method = find_method(run, value, name, kSequenceMethods);
  }
  if (!method.is_undefined()) {
    return method;
  }
  const bool is_container = value.dictionary() != nullptr || value.sequence() != nullptr;
  if (is_container && holds(kChangingMethods, name)) {
    return Value::undefined("access to attribute " + what + " is unsafe");
  }
  return Value::undefined(
      (value.is_none() ? "'None'" : "'" + value.type_name() + " object'") + " has no attribute '" + shown + "'");
}

} // namespace rora::detail::jinja
