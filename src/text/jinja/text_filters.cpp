#include "text/jinja/filters.h"
#include "text/jinja/python_text.h"
#include "text/utf8.h"

#include <algorithm>

namespace rora::detail::jinja {

std::optional<std::string> optional_text(Run& run, const Value& value) {
  return value.is_undefined() || value.is_none() ? std::nullopt : std::make_optional(printed(run, value));
}

int64_t integer_or(const Value& value, int64_t absent) {
  if (value.is_undefined() || value.is_none()) {
    return absent;
  }
  if (!value.is_integer()) {
    throw Failure("an integer is required, found " + value.type_name());
  }
  return value.integer();
}

namespace {

/// A filter without arguments, of texts.
template <std::string (*change)(std::string_view)>
Value of_text(Run& run, const Value& input, const Arguments& arguments) {
  bind_arguments("filter", arguments, {});
  const std::string text = printed(run, input);
  run.charge(text.size() / 4);
  return Value(change(text));
}

/// Jinja's own `title`: a word begins behind white space, a hyphen or an opening bracket.
std::string title_words(std::string_view text) {
  std::string titled;
  bool begins = true;
  for (size_t offset = 0; offset < text.size();) {
    const size_t length = character_length(text, offset);
    const std::string_view character = text.substr(offset, length);
    titled += begins ? upper(character) : lower(character);
    begins = is_python_space(code_point_at(text, offset)) ||
        std::string_view("-({[<").find(character) != std::string_view::npos;
    offset += length;
  }
  return titled;
}

std::string as_it_is(std::string_view text) {
  return std::string(text);
}

Value trim(Run& run, const Value& input, const Arguments& arguments) {
  const auto characters = optional_text(run, bind_arguments("trim", arguments, {"chars"})[0]);
  const std::string text = printed(run, input);
  run.charge(characters ? text.size() / 16 * (1 + characters->size()) / 16 : 0);
  return Value(strip(text, characters ? &*characters : nullptr, true, true));
}

Value replace_text(Run& run, const Value& input, const Arguments& arguments) {
  const std::vector<Value> values = bind_arguments("replace", arguments, {"old", "new", "count"}, 2);
  Arguments plain;
  plain.positional = {Value(printed(run, values[0])), Value(printed(run, values[1])), Value(integer_or(values[2], -1))};
  return call(run, method_of(run, Value(printed(run, input)), "replace"), plain);
}

Value indent(Run& run, const Value& input, const Arguments& arguments) {
  const std::vector<Value> values = bind_arguments("indent", arguments, {"width", "first", "blank"});
  std::string indention = values[0].is_string() ? values[0].string() : "";
  if (!values[0].is_string()) {
    const int64_t width = std::max<int64_t>(integer_or(values[0], 4), 0);
    run.charge_text(static_cast<size_t>(width));
    indention.assign(static_cast<size_t>(width), ' ');
  }
  const std::vector<std::string> lines = split_lines(printed(run, input) + "\n", false);
  std::string text = values[1].truth() ? indention : "";
  for (size_t i = 0; i < lines.size(); ++i) {
    run.charge_text(indention.size());
    text += i == 0 ? "" : "\n";
    text += i > 0 && (values[2].truth() || !lines[i].empty()) ? indention : "";
    text += lines[i];
  }
  return Value(std::move(text));
}

Value format_text(Run& run, const Value& input, const Arguments& arguments) {
  if (!arguments.positional.empty() && !arguments.named.empty()) {
    throw Failure("format takes positional or named arguments, not both");
  }
  Dictionary named;
  for (const auto& [name, value] : arguments.named) {
    named.set(Value(name), value);
  }
  const Value values = arguments.named.empty() ? Value::tuple(arguments.positional) : Value(std::move(named));
  return Value(format_percent(run, printed(run, input), values));
}

Value to_json_text(Run& run, const Value& input, const Arguments& arguments) {
  const std::vector<Value> values =
      bind_arguments("tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = values[0].truth();
  style.indent = integer_or(values[1], -1);
  style.sort_keys = values[3].truth();
  if (!values[2].is_undefined() && !values[2].is_none()) {
    const std::vector<Value> separators = items_of(run, values[2]);
    if (separators.size() != 2) {
      throw Failure("separators must be a pair of texts");
    }
    style.item_separator = printed(run, separators[0]);
    style.key_separator = printed(run, separators[1]);
  }
  if (style.indent > 1000) {
    throw Failure("tojson takes an indent up to 1000, found " + std::to_string(style.indent));
  }
  // Each value stands on a line of its own, so deep, at most.
  const size_t line = static_cast<size_t>(input.depth()) * static_cast<size_t>(std::max<int64_t>(style.indent, 0));
  run.charge(input.weight() * (1 + (line + style.item_separator.size() + style.key_separator.size()) / 16));
  return Value(to_json(input, style));
}

} // namespace

const FilterList& text_filters() {
  static const FilterList filters = {
      {"lower", of_text<lower>},
      {"upper", of_text<upper>},
      {"capitalize", of_text<capitalize>},
      {"title", of_text<title_words>},
      {"string", of_text<as_it_is>},
      {"safe", of_text<as_it_is>}, // nothing is escaped here
      {"trim", trim},
      {"replace", replace_text},
      {"indent", indent},
      {"format", format_text},
      {"tojson", to_json_text},
  };
  return filters;
}

} // namespace rora::detail::jinja
