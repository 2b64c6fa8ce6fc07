#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace CLI {
class App;
class Option;
} // namespace CLI

namespace rora::cli {

using Json = nlohmann::ordered_json;

/// The most of whatever a flag counts that is not bounded more closely: sums and products of two stay within 64 bits.
inline constexpr int64_t kMaxCount = 1'000'000'000;

/// Flags that cannot be, or cannot be together: one line and exit code 2.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// One flag that was added, to say more about it.
class Flag {
 public:
  explicit Flag(CLI::Option* option) : option_(option) {}

  Flag& required();
  /// The value, where there is one, must not be below `minimum`.
  Flag& at_least(double minimum);
  /// The value, where there is one, must be above 0.
  Flag& positive();
  /// The value, where there is one, must be in [minimum, maximum].
  Flag& between(int64_t minimum, int64_t maximum);
  /// The value, where there is one, must be in [minimum, supremum).
  Flag& in_range(double minimum, double supremum);
  /// What `--help` says the default is.
  Flag& with_default(const std::string& text);
  /// Given twice it is refused: neither of two can be left out unseen.
  Flag& once();
  /// Both may not be given.
  Flag& excludes(const Flag& other);

 private:
  CLI::Option* option_;
};

/// One value of a flag, with a line about it.
struct Described {
  std::string name;
  std::string about;
};

/// The flags of one subcommand. Each is bound to a variable, whose value beforehand is its default and stands in
/// `--help`. Names are without dashes. Of a flag given twice the last value counts.
class Flags {
 public:
  explicit Flags(CLI::App& app) : app_(app) {}

  Flag add(const std::string& name, std::string& value, const std::string& description);
  Flag add(const std::string& name, int64_t& value, const std::string& description);
  Flag add(const std::string& name, double& value, const std::string& description);
  /// Several values, or one with commas where `separator` is one.
  Flag add(
      const std::string& name, std::vector<std::string>& value, const std::string& description, char separator = '\0');
  /// The same, whose values may also stand without the flag's name: `rora average A B`.
  Flag add_words(const std::string& name, std::vector<std::string>& value, const std::string& description);
  /// Empty unless given: the description says what that means.
  Flag add(const std::string& name, std::optional<std::string>& value, const std::string& description);
  Flag add(const std::string& name, std::optional<int64_t>& value, const std::string& description);
  Flag add(const std::string& name, std::optional<double>& value, const std::string& description);
  /// A flag without a value.
  Flag add(const std::string& name, bool& value, const std::string& description);

  /// One of several names.
  template <typename T>
  Flag choice(
      const std::string& name, T& value, const std::vector<std::pair<std::string, T>>& choices,
      const std::string& description) {
    std::vector<std::string> names;
    for (const auto& choice : choices) {
      names.push_back(choice.first);
    }
    const auto chosen = [&value, choices] { // asked for when it is written down: the value may be settled after parsing
      size_t found = 0;
      for (size_t i = 0; i < choices.size(); ++i) {
        found = choices[i].second == value ? i : found;
      }
      return found;
    };
    return add_choice(
        name, names, chosen, [&value, choices](size_t i) { value = choices[i].second; }, description);
  }

  /// One of several names, or `help`, which prints each with its line and ends the program.
  Flag choice(
      const std::string& name, std::string& value, const std::vector<Described>& choices,
      const std::string& description);
  /// The same, empty unless given.
  Flag choice(
      const std::string& name, std::optional<std::string>& value, const std::vector<Described>& choices,
      const std::string& description);

  /// Whether the flag was given, on the command line or by `--config`.
  bool given(const std::string& name) const;

  /// Throws `UsageError` for a value that a JSON file cannot hold.
  void require_utf8() const;

  /// Every flag with its value, but those that a given flag excludes: a file that `--config` reads.
  Json resolved() const;

 private:
  Flag add_described_choice(
      const std::string& name, const std::vector<Described>& choices, std::function<void(const std::string&)> choose,
      const std::string& description);
  template <typename T>
  Flag add_optional(const std::string& name, std::optional<T>& value, const std::string& description, const char* type);
  Flag add_choice(
      const std::string& name, const std::vector<std::string>& names, const std::function<size_t()>& chosen,
      const std::function<void(size_t)>& choose, const std::string& description);

  CLI::App& app_;
  std::vector<std::pair<std::string, std::function<Json()>>> values_;
};

/// The arguments `given` to the subcommand `app`, behind the keys of the `--config` file that they name, but for keys
/// that they give themselves or that exclude a flag of theirs. Throws `FileError` and `FormatError` that names the key.
std::vector<std::string> with_config_file(const CLI::App& app, const std::vector<std::string>& given);

} // namespace rora::cli
