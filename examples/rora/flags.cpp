#include "flags.h"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iostream>
#include <memory>
#include <type_traits>

namespace rora::cli {
namespace {

/// The shortest text that reads back the same: CLI11 writes 6.2e-05 for 6.25e-5.
std::string number_text(double value) {
  const auto whole = static_cast<int64_t>(value);
  return static_cast<double>(whole) == value ? std::to_string(whole) : Json(value).dump();
}

CLI::Validator number_check(const std::string& text, std::function<bool(double)> holds) {
  return CLI::Validator(
      [text, holds](const std::string& input) {
        double value = 0.0;
        return CLI::detail::lexical_cast(input, value) && std::isfinite(value) && holds(value)
            ? std::string()
            : "must be a number " + text + ", not " + input;
      },
      "");
}

/// CLI11 itself reads 010 and 0x8 for 8.
const CLI::Validator kDecimal(
    [](const std::string& input) {
      const std::string digits = input.starts_with('-') ? input.substr(1) : input;
      const bool decimal = !digits.empty() && digits.find_first_not_of("0123456789") == std::string::npos &&
          (digits[0] != '0' || digits.size() == 1);
      if (!decimal) {
        return "must be a whole number in decimal digits, not " + input;
      }
      int64_t value = 0; // CLI11 takes the largest for what is beyond it
      const bool fits = std::from_chars(input.data(), input.data() + input.size(), value).ec == std::errc();
      return fits ? std::string() : "must fit into 64 bits, not " + input;
    },
    "");

} // namespace

Flag& Flag::required() {
  option_->required()->default_str("");
  return *this;
}

Flag& Flag::at_least(double minimum) {
  option_->check(
      number_check("of at least " + number_text(minimum), [minimum](double value) { return value >= minimum; }));
  return *this;
}

Flag& Flag::positive() {
  option_->check(number_check("above 0", [](double value) { return value > 0.0; }));
  return *this;
}

Flag& Flag::between(int64_t minimum, int64_t maximum) {
  option_->check(number_check(
      "from " + std::to_string(minimum) + " to " + std::to_string(maximum), [minimum, maximum](double value) {
        return value >= static_cast<double>(minimum) && value <= static_cast<double>(maximum);
      }));
  return *this;
}

Flag& Flag::in_range(double minimum, double supremum) {
  option_->check(number_check(
      "of at least " + number_text(minimum) + " and below " + number_text(supremum),
      [minimum, supremum](double value) { return value >= minimum && value < supremum; }));
  return *this;
}

Flag& Flag::with_default(const std::string& text) {
  option_->default_str(text);
  return *this;
}

Flag& Flag::once() {
  option_->multi_option_policy(CLI::MultiOptionPolicy::Throw);
  return *this;
}

Flag& Flag::excludes(const Flag& other) {
  option_->excludes(other.option_);
  return *this;
}

Flag Flags::add(const std::string& name, std::string& value, const std::string& description) {
  values_.emplace_back(name, [&value] { return Json(value); });
  CLI::Option* option = app_.add_option("--" + name, value, description)->take_last();
  if (!value.empty()) {
    option->capture_default_str();
  }
  return Flag(option->type_name("TEXT"));
}

Flag Flags::add(const std::string& name, int64_t& value, const std::string& description) {
  values_.emplace_back(name, [&value] { return Json(value); });
  CLI::Option* option = app_.add_option("--" + name, value, description)->take_last()->capture_default_str();
  return Flag(option->check(kDecimal)->type_name("N"));
}

Flag Flags::add(const std::string& name, double& value, const std::string& description) {
  values_.emplace_back(name, [&value] { return Json(value); });
  return Flag(
      app_.add_option("--" + name, value, description)->take_last()->default_str(number_text(value))->type_name("X"));
}

Flag Flags::add(
    const std::string& name, std::vector<std::string>& value, const std::string& description, char separator) {
  values_.emplace_back(name, [&value] { return Json(value); });
  CLI::Option* option = app_.add_option("--" + name, value, description)->type_name("TEXT");
  std::string joined;
  for (const std::string& each : value) {
    joined += (joined.empty() ? "" : separator == '\0' ? " " : std::string(1, separator)) + each;
  }
  option->default_str(joined);
  if (separator != '\0') {
    option->delimiter(separator);
  }
  return Flag(option);
}

Flag Flags::add_words(const std::string& name, std::vector<std::string>& value, const std::string& description) {
  values_.emplace_back(name, [&value] { return Json(value); });
  return Flag(app_.add_option(name + ",--" + name, value, description)->type_name("TEXT"));
}

Flag Flags::add(const std::string& name, std::optional<std::string>& value, const std::string& description) {
  return add_optional(name, value, description, "TEXT");
}

Flag Flags::add(const std::string& name, std::optional<int64_t>& value, const std::string& description) {
  return add_optional(name, value, description, "N");
}

Flag Flags::add(const std::string& name, std::optional<double>& value, const std::string& description) {
  return add_optional(name, value, description, "X");
}

template <typename T>
Flag Flags::add_optional(
    const std::string& name, std::optional<T>& value, const std::string& description, const char* type) {
  values_.emplace_back(name, [&value] { return value ? Json(*value) : Json(nullptr); });
  CLI::Option* option = app_.add_option_function<T>(
      "--" + name, [&value](const T& given) { value = given; }, description);
  if constexpr (std::is_same_v<T, int64_t>) {
    option->check(kDecimal);
  }
  return Flag(option->take_last()->type_name(type));
}

Flag Flags::add(const std::string& name, bool& value, const std::string& description) {
  values_.emplace_back(name, [&value] { return Json(value); });
  return Flag(app_.add_flag("--" + name, value, description));
}

Flag Flags::add_choice(
    const std::string& name, const std::vector<std::string>& names, const std::function<size_t()>& chosen,
    const std::function<void(size_t)>& choose, const std::string& description) {
  values_.emplace_back(name, [names, chosen] { return Json(names[chosen()]); });
  std::string list;
  for (const std::string& each : names) {
    list += (list.empty() ? "" : "|") + each;
  }
  CLI::Option* option = app_.add_option_function<std::string>(
      "--" + name,
      [names, choose](const std::string& given) {
        choose(static_cast<size_t>(std::find(names.begin(), names.end(), given) - names.begin()));
      },
      description);
  option->check(CLI::Validator(
      [names, list](const std::string& given) {
        return std::find(names.begin(), names.end(), given) == names.end() ? "must be " + list + ", not " + given
                                                                           : std::string();
      },
      ""));
  return Flag(option->take_last()->default_str(names[chosen()])->type_name(list));
}

Flag Flags::choice(
    const std::string& name, std::string& value, const std::vector<Described>& choices,
    const std::string& description) {
  values_.emplace_back(name, [&value] { return Json(value); });
  return add_described_choice(
             name, choices, [&value](const std::string& given) { value = given; }, description)
      .with_default(value);
}

Flag Flags::choice(
    const std::string& name, std::optional<std::string>& value, const std::vector<Described>& choices,
    const std::string& description) {
  values_.emplace_back(name, [&value] { return value ? Json(*value) : Json(nullptr); });
  return add_described_choice(
      name, choices, [&value](const std::string& given) { value = given; }, description);
}

Flag Flags::add_described_choice(
    const std::string& name, const std::vector<Described>& choices, std::function<void(const std::string&)> choose,
    const std::string& description) {
  std::string names;
  size_t width = 0;
  for (const Described& each : choices) {
    names += (names.empty() ? "" : "|") + each.name;
    width = std::max(width, each.name.size());
  }
  CLI::Option* option = app_.add_option_function<std::string>(
      "--" + name,
      [=](const std::string& given) {
        if (given == "help") {
          for (const Described& each : choices) {
            std::cout << each.name << std::string(width - each.name.size() + 2, ' ') << each.about << "\n";
          }
          throw CLI::Success();
        }
        if (std::none_of(choices.begin(), choices.end(), [&](const Described& each) { return each.name == given; })) {
          throw CLI::ValidationError("--" + name, "must be " + names + " or help, not " + given);
        }
        choose(given);
      },
      description + "; help lists them");
  return Flag(option->take_last()->type_name(names));
}

bool Flags::given(const std::string& name) const {
  return app_.get_option("--" + name)->count() > 0;
}

void Flags::require_utf8() const {
  for (const auto& [name, value] : values_) {
    try {
      value().dump();
    } catch (const Json::exception&) {
      throw UsageError("--" + name + " is not UTF-8, and run.json is to hold it");
    }
  }
}

Json Flags::resolved() const {
  Json json = Json::object();
  for (const auto& [name, value] : values_) {
    bool excluded = false;
    for (const CLI::Option* other : app_.get_option("--" + name)->get_excludes()) {
      excluded = excluded || other->count() > 0;
    }
    if (!excluded) {
      json[name] = value();
    }
  }
  return json;
}

} // namespace rora::cli
