#pragma once

#include "json.h"

#include <rora/error.h>

#include <nlohmann/json.hpp>

#include <cmath>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace rora::detail {

using Json = nlohmann::ordered_json;

/// A JSON object of a file, read field by field: each wrong type is a `FormatError` that names the file and the field.
/// A field that is absent and one that is null read alike; `contains` tells them apart where transformers does.
class JsonObject {
 public:
  JsonObject(std::filesystem::path path, Json object, std::string prefix = {})
      : path_(std::move(path)), object_(std::move(object)), prefix_(std::move(prefix)) {
    if (!object_.is_object()) {
      throw FormatError(path_, (prefix_.empty() ? "the content" : prefix_) + " must be a JSON object");
    }
  }

  /// Parses a whole file, which must hold one object.
  static JsonObject parse(const std::filesystem::path& path, std::string_view text) {
    return JsonObject(path, parse_json(path, text));
  }

  bool has(const std::string& field) const {
    const auto found = object_.find(field);
    return found != object_.end() && !found->is_null();
  }

  bool contains(const std::string& field) const {
    return object_.contains(field);
  }

  const Json& json() const {
    return object_;
  }
  const Json& at(const std::string& field) const {
    if (!has(field)) {
      fail(field, "is missing");
    }
    return object_.at(field);
  }

  int64_t integer(const std::string& field) const {
    const Json& value = at(field);
    if (!value.is_number_integer()) {
      fail(field, "must be an integer, not " + value.dump());
    }
    return value.get<int64_t>();
  }
  int64_t integer(const std::string& field, int64_t absent) const {
    return has(field) ? integer(field) : absent;
  }

  double number(const std::string& field) const {
    const Json& value = at(field);
    if (!value.is_number() || !std::isfinite(value.get<double>())) {
      fail(field, "must be a number, not " + value.dump());
    }
    return value.get<double>();
  }
  double number(const std::string& field, double absent) const {
    return has(field) ? number(field) : absent;
  }

  bool boolean(const std::string& field, bool absent) const {
    if (!has(field)) {
      return absent;
    }
    if (!at(field).is_boolean()) {
      fail(field, "must be true or false, not " + at(field).dump());
    }
    return at(field).get<bool>();
  }

  std::string string(const std::string& field) const {
    if (!at(field).is_string()) {
      fail(field, "must be a string, not " + at(field).dump());
    }
    return at(field).get<std::string>();
  }
  std::string string(const std::string& field, const std::string& absent) const {
    return has(field) ? string(field) : absent;
  }

  /// A list, or a single element standing for a list of one.
  std::vector<int64_t> integers(const std::string& field) const {
    return list<int64_t>(field, "integers", [](const Json& each) { return each.is_number_integer(); });
  }
  std::vector<std::string> strings(const std::string& field) const {
    return list<std::string>(field, "strings", [](const Json& each) { return each.is_string(); });
  }

  JsonObject object(const std::string& field) const {
    return JsonObject(path_, at(field), prefix_ + field);
  }

  [[noreturn]] void fail(const std::string& field, const std::string& what) const {
    throw FormatError(path_, (prefix_.empty() ? "" : prefix_ + ".") + field + " " + what);
  }

 private:
  template <typename T, typename Matches>
  std::vector<T> list(const std::string& field, const char* kind, Matches matches) const {
    std::vector<T> values;
    if (!has(field)) {
      return values;
    }
    const Json& json = at(field);
    const Json wrapped = json.is_array() ? json : Json::array({json});
    for (const Json& each : wrapped) {
      if (!matches(each)) {
        fail(field, std::string("must be a list of ") + kind + ", not " + json.dump());
      }
      values.push_back(each.get<T>());
    }
    return values;
  }

  std::filesystem::path path_;
  Json object_;
  std::string prefix_;
};

} // namespace rora::detail
