#include "json_object.h"

#include <rora/checkpoint/file.h>
#include <rora/error.h>

#include <c10/util/Exception.h>

#include <cmath>

namespace rora {
namespace {

using detail::Json;

const Json& required(const JsonObject& object, const std::string& field) {
  if (!object.has(field)) {
    object.fail(field, "is missing");
  }
  return object.value().json.at(field);
}

/// Whether the value is an integer of 64 bits. The parser reads one of up to 2⁶⁴ − 1 too.
bool is_integer(const Json& value) {
  return value.is_number_integer() && !(value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX);
}

template <typename T, typename Matches>
std::vector<T> list(const JsonObject& object, const std::string& field, const char* kind, Matches matches) {
  std::vector<T> values;
  if (!object.has(field)) {
    return values;
  }
  const Json& json = object.value().json.at(field);
  const Json wrapped = json.is_array() ? json : Json::array({json});
  for (const Json& each : wrapped) {
    if (!matches(each)) {
      object.fail(field, std::string("must be a list of ") + kind + ", not " + detail::shown(json));
    }
    values.push_back(each.get<T>());
  }
  return values;
}

} // namespace

JsonObject::JsonObject(std::filesystem::path path, std::shared_ptr<const Value> value, std::string prefix)
    : path_(std::move(path)), value_(std::move(value)), prefix_(std::move(prefix)) {
  if (!value_->json.is_object()) {
    throw FormatError(path_, (prefix_.empty() ? "the content" : prefix_) + " must be a JSON object");
  }
}

JsonObject JsonObject::parse(const std::filesystem::path& path, std::string_view text) {
  return JsonObject(path, std::make_shared<const Value>(Value{detail::parse_json(path, text)}));
}

JsonObject JsonObject::read(const std::filesystem::path& path) {
  return parse(path, read_file(path));
}

const std::filesystem::path& JsonObject::path() const {
  return path_;
}

std::vector<std::string> JsonObject::names() const {
  std::vector<std::string> names;
  for (const auto& [name, value] : value_->json.items()) {
    names.push_back(name);
  }
  return names;
}

bool JsonObject::has(const std::string& field) const {
  const auto found = value_->json.find(field);
  return found != value_->json.end() && !found->is_null();
}

bool JsonObject::contains(const std::string& field) const {
  return value_->json.contains(field);
}

bool JsonObject::is_off(const std::string& field) const {
  if (!has(field)) {
    return true;
  }
  const Json& value = value_->json.at(field);
  return value == false || ((value.is_array() || value.is_object() || value.is_string()) && value.empty());
}

bool JsonObject::is_string(const std::string& field) const {
  return has(field) && value_->json.at(field).is_string();
}

bool JsonObject::is_number(const std::string& field) const {
  return has(field) && value_->json.at(field).is_number();
}

bool JsonObject::is_object(const std::string& field) const {
  return has(field) && value_->json.at(field).is_object();
}

std::string JsonObject::text(const std::string& field) const {
  return contains(field) ? detail::shown(value_->json.at(field)) : "null";
}

int64_t JsonObject::integer(const std::string& field) const {
  const Json& value = required(*this, field);
  if (!is_integer(value)) {
    fail(field, "must be an integer, not " + detail::shown(value));
  }
  return value.get<int64_t>();
}

int64_t JsonObject::integer(const std::string& field, int64_t absent) const {
  return has(field) ? integer(field) : absent;
}

double JsonObject::number(const std::string& field) const {
  const Json& value = required(*this, field);
  if (!value.is_number() || !std::isfinite(value.get<double>())) {
    fail(field, "must be a number, not " + detail::shown(value));
  }
  return value.get<double>();
}

double JsonObject::number(const std::string& field, double absent) const {
  return has(field) ? number(field) : absent;
}

bool JsonObject::boolean(const std::string& field, bool absent) const {
  if (!has(field)) {
    return absent;
  }
  const Json& value = value_->json.at(field);
  if (!value.is_boolean()) {
    fail(field, "must be true or false, not " + detail::shown(value));
  }
  return value.get<bool>();
}

std::string JsonObject::string(const std::string& field) const {
  const Json& value = required(*this, field);
  if (!value.is_string()) {
    fail(field, "must be a string, not " + detail::shown(value));
  }
  return value.get<std::string>();
}

std::string JsonObject::string(const std::string& field, const std::string& absent) const {
  return has(field) ? string(field) : absent;
}

std::vector<int64_t> JsonObject::integers(const std::string& field) const {
  return list<int64_t>(*this, field, "integers", is_integer);
}

std::vector<std::string> JsonObject::strings(const std::string& field) const {
  return list<std::string>(*this, field, "strings", [](const Json& each) { return each.is_string(); });
}

std::vector<bool> JsonObject::booleans(const std::string& field) const {
  return list<bool>(*this, field, "true and false", [](const Json& each) { return each.is_boolean(); });
}

JsonObject JsonObject::object(const std::string& field) const {
  return JsonObject(path_, std::make_shared<const Value>(Value{required(*this, field)}), prefix_ + field);
}

void JsonObject::fail(const std::string& field, const std::string& what) const {
  throw FormatError(path_, (prefix_.empty() ? "" : prefix_ + ".") + field + " " + what);
}

JsonFields::JsonFields() : value_(std::make_unique<Value>()) {}
JsonFields::~JsonFields() = default;
JsonFields::JsonFields(JsonFields&&) noexcept = default;
JsonFields& JsonFields::operator=(JsonFields&&) noexcept = default;

JsonFields& JsonFields::set(const std::string& field, std::nullptr_t) {
  value_->json[field] = nullptr;
  return *this;
}
JsonFields& JsonFields::set(const std::string& field, bool value) {
  value_->json[field] = value;
  return *this;
}
JsonFields& JsonFields::set(const std::string& field, int64_t value) {
  value_->json[field] = value;
  return *this;
}
JsonFields& JsonFields::set(const std::string& field, double value) {
  value_->json[field] = value;
  return *this;
}
JsonFields& JsonFields::set(const std::string& field, const char* value) {
  value_->json[field] = value;
  return *this;
}
JsonFields& JsonFields::set(const std::string& field, const std::string& value) {
  value_->json[field] = value;
  return *this;
}
JsonFields& JsonFields::set(const std::string& field, const std::vector<int64_t>& value) {
  value_->json[field] = value;
  return *this;
}
JsonFields& JsonFields::set(const std::string& field, const std::vector<std::string>& value) {
  value_->json[field] = value;
  return *this;
}
JsonFields& JsonFields::set(const std::string& field, const std::vector<bool>& value) {
  value_->json[field] = value;
  return *this;
}
JsonFields& JsonFields::set(const std::string& field, const JsonFields& value) {
  value_->json[field] = value.value_->json;
  return *this;
}

JsonFields& JsonFields::remove(const std::string& field) {
  value_->json.erase(field);
  return *this;
}

std::string JsonFields::text() const {
  try {
    return value_->json.dump(2) + "\n";
  } catch (const Json::exception&) {
    C10_THROW_ERROR(ValueError, "a text for a JSON file is not UTF-8");
  }
}

} // namespace rora
