#include "text/jinja/template.h"

#include "support/test_data.h"
#include "text/support.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace rora::detail::jinja {
namespace {

using nlohmann::ordered_json;
using rora::testing::read_test_json;
using rora::testing::test_data;

Value to_value(const ordered_json& json) {
  if (json.is_null()) {
    return None{};
  }
  if (json.is_boolean()) {
    return Value(json.get<bool>());
  }
  if (json.is_number_integer()) {
    return Value(json.get<int64_t>());
  }
  if (json.is_number_float()) {
    return Value(json.get<double>());
  }
  if (json.is_string()) {
    return Value(json.get<std::string>());
  }
  if (json.is_array()) {
    std::vector<Value> items;
    for (const ordered_json& item : json) {
      items.push_back(to_value(item));
    }
    return Value::list(std::move(items));
  }
  Dictionary dictionary;
  for (const auto& [key, item] : json.items()) {
    dictionary.set(Value(key), to_value(item));
  }
  return Value(std::move(dictionary));
}

TEST(Jinja, RendersEachConstructAsPythonDoes) {
  const ordered_json fixture = read_test_json(test_data("text/jinja/expressions.json"));
  std::vector<std::pair<std::string, Value>> names;
  for (const auto& [name, value] : fixture["names"].items()) {
    names.emplace_back(name, to_value(value));
  }
  for (const ordered_json& row : fixture["cases"]) {
    const std::string source = row["template"];
    SCOPED_TRACE(source);
    if (row.contains("error")) {
      EXPECT_THROW(Template(source).render(names, 0), Failure) << row["error"];
      continue;
    }
    try {
      const Template::Rendering rendering = Template(source).render(names, 0);
      EXPECT_EQ(rendering.text, row["output"].get<std::string>());
      const ordered_json spans = row.value("generated", ordered_json::array());
      ASSERT_EQ(rendering.generated.size(), spans.size());
      for (size_t i = 0; i < spans.size(); ++i) {
        EXPECT_EQ(rendering.generated[i].first, spans[i][0].get<size_t>());
        EXPECT_EQ(rendering.generated[i].second, spans[i][1].get<size_t>());
      }
    } catch (const Failure& failure) {
      ADD_FAILURE() << failure.what();
    }
  }
}

/// What the template throws, with its place.
std::string failure_of(const std::string& source) {
  try {
    Template(source).render({}, 0);
  } catch (const Failure& failure) {
    return std::to_string(failure.place.line) + ":" + std::to_string(failure.place.column) + " " + failure.what();
  }
  return "";
}

TEST(Jinja, NamesThePlaceOfAFailure) {
  EXPECT_EQ(failure_of("a\n é {{ x.y }}"), "2:8 'x' is undefined");
  EXPECT_EQ(failure_of("{{ 'a' | upper | nope }}"), "1:18 the filter 'nope' is not supported");
  EXPECT_EQ(failure_of("\n{% if x %}"), "2:11 expected 'endif', found the template's end");
  EXPECT_EQ(failure_of("{{ (1 }}"), "1:7 an unexpected '}'");
}

TEST(Jinja, RefusesWhatItDoesNotKnowRatherThanPrintNothing) {
  for (const char* const source :
       {"{{ 'a'.zfill(3) }}", "{{ cycler('a') }}", "{% import 'x' as y %}", "{% block x %}{% endblock %}",
        "{{ 'ß' | upper }}", "{{ '%x' % 3 }}", "{{ '{:>3}'.format(1) }}", "{{ 99999999999999999999 }}",
        "{{ 9223372036854775807 + 1 }}", "{{ '½'.isdigit() }}", "{{ '\\N{BULLET}' }}",
        "{% macro m() %}{% generation %}{% endgeneration %}{% endmacro %}{{ m() }}"}) {
    EXPECT_NE(failure_of(source), "") << source;
  }
}

TEST(Jinja, ASecondRenderingBeginsAfresh) {
  const Template parsed("{% set ns = namespace(n=0) %}{% set ns.n = ns.n + 1 %}{{ ns.n }}{{ x }}");
  EXPECT_EQ(parsed.render({{"x", Value("a")}}, 0).text, "1a");
  EXPECT_EQ(parsed.render({}, 0).text, "1");
}

} // namespace
} // namespace rora::detail::jinja
