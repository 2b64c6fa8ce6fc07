#include "text/json_field.h"

#include <rora/error.h>

#include "checkpoint/json.h"
#include "checkpoint/quote.h"

#include <algorithm>

namespace rora::detail {

namespace {

const nlohmann::json kNull;
constexpr size_t kShownKey = 80;

std::string described(const nlohmann::json& value) {
  if (value.is_object() || value.is_array()) {
    return std::string("an ") + value.type_name();
  }
  return value.is_string() ? quote(value.get_ref<const std::string&>()) : shown(value);
}

} // namespace

void JsonPlace::fail(const std::string& what) const {
  throw FormatError(path, name.empty() ? what : name + ": " + what);
}

JsonField::JsonField(const std::filesystem::path& path, const nlohmann::json& document)
    : JsonField(&path, "", &document) {}

JsonField::JsonField(const std::filesystem::path* path, std::string name, const nlohmann::json* value)
    : path_(path), name_(std::move(name)), value_(value) {}

JsonField JsonField::operator[](std::string_view key) const {
  const nlohmann::json& members = object();
  const auto member = members.find(std::string(key));
  std::string name = (name_.empty() ? "" : name_ + ".") + shortened(key, kShownKey);
  return {path_, std::move(name), member == members.end() ? &kNull : &*member};
}

std::vector<JsonField> JsonField::elements() const {
  if (!value_->is_array()) {
    fail_type("an array");
  }
  std::vector<JsonField> fields;
  fields.reserve(value_->size());
  for (size_t index = 0; index < value_->size(); ++index) {
    fields.push_back({path_, name_ + "[" + std::to_string(index) + "]", &(*value_)[index]});
  }
  return fields;
}

JsonPlace JsonField::place() const {
  return {*path_, name_};
}

bool JsonField::is_null() const {
  return value_->is_null();
}

bool JsonField::is_string() const {
  return value_->is_string();
}

bool JsonField::is_array() const {
  return value_->is_array();
}

const nlohmann::json& JsonField::value() const {
  return *value_;
}

std::string JsonField::string() const {
  if (!value_->is_string()) {
    fail_type("a string");
  }
  return value_->get<std::string>();
}

bool JsonField::boolean() const {
  if (!value_->is_boolean()) {
    fail_type("true or false");
  }
  return value_->get<bool>();
}

bool JsonField::boolean_or(bool fallback) const {
  return is_null() ? fallback : boolean();
}

int64_t JsonField::integer() const {
  if (!value_->is_number_integer() || (value_->is_number_unsigned() && value_->get<uint64_t>() > INT64_MAX)) {
    fail_type("an integer");
  }
  return value_->get<int64_t>();
}

const nlohmann::json& JsonField::object() const {
  if (!value_->is_object()) {
    fail_type("an object");
  }
  return *value_;
}

void JsonField::allow_only(std::initializer_list<std::string_view> keys) const {
  for (const auto& member : object().items()) {
    if (std::find(keys.begin(), keys.end(), member.key()) == keys.end()) {
      (*this)[member.key()].fail("this field is not supported");
    }
  }
}

void JsonField::fail(const std::string& what) const {
  place().fail(what);
}

void JsonField::fail_type(std::string_view expected) const {
  fail("expected " + std::string(expected) + ", found " + (is_null() ? "nothing" : described(*value_)));
}

nlohmann::json read_json_object(const std::filesystem::path& path) {
  nlohmann::json document = read_sorted_json(path);
  if (!document.is_object()) {
    throw FormatError(path, std::string("expected a JSON object, found ") + document.type_name());
  }
  return document;
}

} // namespace rora::detail
