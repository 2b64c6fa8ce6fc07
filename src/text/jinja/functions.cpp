#include "text/jinja/filters.h"
#include "text/jinja/nodes.h"

#include <algorithm>
#include <array>

namespace rora::detail::jinja {

namespace {

/// The entries of `dict(mapping, name=value)` or `dict(pairs)`.
std::vector<std::pair<Value, Value>> entries_of(Run& run, const Arguments& arguments) {
  std::vector<std::pair<Value, Value>> entries;
  if (arguments.positional.size() > 1) {
    throw Failure("dict expected at most 1 argument, found " + std::to_string(arguments.positional.size()));
  }
  if (!arguments.positional.empty()) {
    const Value& first = arguments.positional.front();
    if (const Dictionary* const known = first.dictionary()) {
      run.charge(known->entries().size());
      entries = known->entries();
    } else {
      first.require_defined();
      for (const Value& pair : items_of(run, first)) {
        const std::vector<Value> both = items_of(run, pair);
        if (both.size() != 2) {
          throw Failure("dict takes pairs, found " + std::to_string(both.size()) + " items");
        }
        entries.emplace_back(both[0], both[1]);
      }
    }
  }
  for (const auto& [name, value] : arguments.named) {
    run.charge(1);
    entries.emplace_back(Value(name), value);
  }
  return entries;
}

Value make_dictionary(Run& run, const Arguments& arguments) {
  Dictionary dictionary;
  for (const auto& [key, value] : entries_of(run, arguments)) {
    run.charge(key.is_string() ? key.weight() : dictionary.weight());
    dictionary.set(key, value);
  }
  return Value(std::move(dictionary));
}

Value make_namespace(Run& run, const Arguments& arguments) {
  auto* const space = run.make<Namespace>();
  for (const auto& [key, value] : entries_of(run, arguments)) {
    if (!key.is_string()) {
      throw Failure("a namespace takes texts as names, found " + key.type_name());
    }
    run.charge(key.weight());
    space->set(key.string(), value);
  }
  return Value(static_cast<Object*>(space));
}

Value range(Run& run, const Arguments& arguments) {
  if (arguments.positional.empty() || arguments.positional.size() > 3 || !arguments.named.empty()) {
    throw Failure("range takes one to three numbers");
  }
  std::array<int64_t, 3> bounds = {0, 0, 1};
  const size_t first = arguments.positional.size() == 1 ? 1 : 0;
  for (size_t i = 0; i < arguments.positional.size(); ++i) {
    arguments.positional[i].require_defined();
    bounds[first + i] = integer_or(arguments.positional[i], 0);
  }
  const auto [begin, end, step] = bounds;
  if (step == 0) {
    throw Failure("range() arg 3 must not be zero");
  }
  constexpr size_t kMaxItems = 100'000; // the sandbox's limit
  std::vector<Value> items;
  for (int64_t i = begin; step > 0 ? i < end : i > end;) {
    if (items.size() == kMaxItems) {
      throw Failure(Failure::Kind::kTooMuch, "range is over the maximum of " + std::to_string(kMaxItems) + " items");
    }
    run.charge(1);
    items.emplace_back(i);
    if (__builtin_add_overflow(i, step, &i)) {
      break;
    }
  }
  return Value::list(std::move(items));
}

Value raise_exception(Run&, const Arguments& arguments) {
  throw Failure(Failure::Kind::kRaised, bind_arguments("raise_exception", arguments, {"message"}, 1)[0].text());
}

/// The format without what tells the time zone: Python's `datetime.now()` has none.
std::string without_zone(const std::string& format) {
  std::string kept;
  for (size_t i = 0; i < format.size(); ++i) {
    const bool is_code = format[i] == '%' && i + 1 < format.size();
    const std::string part = format.substr(i, is_code ? 2 : 1);
    kept += part == "%Z" || part == "%z" ? "" : part;
    i += is_code ? 1 : 0;
  }
  return kept;
}

Value strftime_now(Run& run, const Arguments& arguments) {
  const std::string format = without_zone(bind_arguments("strftime_now", arguments, {"format"}, 1)[0].text());
  const std::time_t now = run.now();
  std::tm local{};
  localtime_r(&now, &local);
  std::array<char, 4096> text{};
  const size_t size = std::strftime(text.data(), text.size(), format.c_str(), &local);
  if (format.size() > 256 || format.find('\0') != std::string::npos || (size == 0 && !format.empty())) {
    throw Failure("strftime_now takes a short format, found one of " + std::to_string(format.size()) + " bytes");
  }
  return Value(std::string(text.data(), size));
}

/// A function that gives nothing the first time and a separator each time after.
class Joiner : public Object {
 public:
  explicit Joiner(Value separator) : separator_(std::move(separator)) {}
  std::string text() const override {
    return "<Joiner>";
  }
  bool is_callable() const override {
    return true;
  }
  Value call(Run&, const Arguments& arguments) override {
    bind_arguments("joiner", arguments, {});
    return std::exchange(used_, true) ? separator_ : Value("");
  }

 private:
  Value separator_;
  bool used_ = false;
};

Value make_joiner(Run& run, const Arguments& arguments) {
  const Value separator = bind_arguments("joiner", arguments, {"sep"})[0];
  return Value(static_cast<Object*>(run.make<Joiner>(separator.is_undefined() ? Value(", ") : separator)));
}

constexpr auto kFunctions = std::to_array<std::pair<const char*, Function::Body>>({
    {"dict", make_dictionary},
    {"namespace", make_namespace},
    {"range", range},
    {"joiner", make_joiner},
    {"raise_exception", raise_exception},
    {"strftime_now", strftime_now},
});

} // namespace

Object* find_function(Run& run, const std::string& name) {
  if (name == "cycler" || name == "lipsum") {
    throw Failure(Failure::Kind::kMalformed, "the function '" + name + "' is not supported");
  }
  for (const auto& [each, body] : kFunctions) {
    if (name == each) {
      return run.make<Function>(name, body);
    }
  }
  return nullptr;
}

} // namespace rora::detail::jinja
