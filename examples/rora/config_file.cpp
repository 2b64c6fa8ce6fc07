#include "flags.h"

#include <rora/checkpoint/file.h>
#include <rora/checkpoint/json_object.h>
#include <rora/error.h>

#include <CLI/CLI.hpp>

#include <filesystem>

namespace rora::cli {
namespace {

constexpr const char* kConfigFlag = "--config";

/// The value of `flag` in `arguments`, or nothing.
std::optional<std::string> value_of(const std::vector<std::string>& arguments, const std::string& flag) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i] == flag && i + 1 < arguments.size()) {
      return arguments[i + 1];
    }
    if (arguments[i].starts_with(flag + "=")) {
      return arguments[i].substr(flag.size() + 1);
    }
  }
  return std::nullopt;
}

bool gives(const std::vector<std::string>& arguments, const std::string& flag) {
  for (const std::string& each : arguments) {
    if (each == flag || each.starts_with(flag + "=")) {
      return true;
    }
  }
  return false;
}

/// Whether the arguments themselves say what a key of the file is about: they win.
bool overridden(const CLI::Option& option, const std::string& flag, const std::vector<std::string>& arguments) {
  if (gives(arguments, flag)) {
    return true;
  }
  for (const CLI::Option* other : option.get_excludes()) {
    if (gives(arguments, other->get_name())) {
      return true;
    }
  }
  return false;
}

std::string scalar_text(const std::filesystem::path& path, const std::string& key, const Json& value) {
  if (value.is_string()) {
    return value.get<std::string>();
  }
  if (value.is_boolean()) {
    return value.get<bool>() ? "on" : "off";
  }
  if (value.is_number()) {
    return value.dump();
  }
  throw FormatError(path, "'" + key + "' must be a string, a number, true or false, or a list of strings");
}

void append(
    std::vector<std::string>& expanded, const std::filesystem::path& path, const std::string& key, const Json& value,
    const CLI::Option& option) {
  const std::string flag = "--" + key;
  if (option.get_expected_max() == 0) {
    if (!value.is_boolean()) {
      throw FormatError(path, "'" + key + "' must be true or false");
    }
    if (value.get<bool>()) {
      expanded.push_back(flag);
    }
    return;
  }
  if (!value.is_array()) {
    expanded.push_back(flag);
    expanded.push_back(scalar_text(path, key, value));
    return;
  }
  if (option.get_expected_max() == 1) {
    throw FormatError(path, "'" + key + "' must be one value, not a list");
  }
  if (!value.empty()) {
    expanded.push_back(flag);
  }
  for (const Json& each : value) {
    expanded.push_back(scalar_text(path, key, each));
  }
}

} // namespace

std::vector<std::string> with_config_file(const CLI::App& app, const std::vector<std::string>& given) {
  std::vector<std::string> arguments;
  for (const std::string& each : given) {
    // CLI11 takes "--text=" for a flag whose value is still to come.
    const bool empty =
        each.size() > 3 && each.ends_with("=") && app.get_option_no_throw(each.substr(0, each.size() - 1));
    arguments.push_back(empty ? each.substr(0, each.size() - 1) : each);
    if (empty) {
      arguments.emplace_back();
    }
  }
  const auto file = value_of(arguments, kConfigFlag);
  if (!file) {
    return arguments;
  }
  const std::filesystem::path path = *file;
  const std::string text = read_file(path);
  JsonObject::parse(path, text); // refuses what is no object, keys given twice and nesting without end
  const Json config = Json::parse(text);
  std::vector<std::string> expanded;
  for (const auto& [key, value] : config.items()) {
    const CLI::Option* option = app.get_option_no_throw("--" + key);
    if (option == nullptr || key == "config" || key == "help") {
      throw FormatError(path, "'" + key + "' is not a flag of rora " + app.get_name());
    }
    if (!value.is_null() && !overridden(*option, "--" + key, arguments)) {
      append(expanded, path, key, value, *option);
    }
  }
  expanded.insert(expanded.end(), arguments.begin(), arguments.end());
  return expanded;
}

} // namespace rora::cli
