#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rora {

/// A JSON object of a file, read field by field: each wrong type is a `FormatError` that names the file and the field.
/// A field that is absent and one that is null read alike; `contains` tells them apart where transformers does.
class JsonObject {
 public:
  /// `text` is the content of `path`, which must hold one object. Throws `FormatError`.
  static JsonObject parse(const std::filesystem::path& path, std::string_view text);

  /// `parse` of the file's content. Throws `FileError` too.
  static JsonObject read(const std::filesystem::path& path);

  const std::filesystem::path& path() const;

  /// The fields' names, in their order.
  std::vector<std::string> names() const;
  /// Whether the field is there and is not null.
  bool has(const std::string& field) const;
  /// Whether the field is there.
  bool contains(const std::string& field) const;
  /// Whether the value asks for nothing: null, false, or an empty list, object or string.
  bool is_off(const std::string& field) const;
  bool is_string(const std::string& field) const;
  bool is_number(const std::string& field) const;
  bool is_object(const std::string& field) const;
  /// The value as JSON text, cut to a line's length, for messages.
  std::string text(const std::string& field) const;

  int64_t integer(const std::string& field) const;
  int64_t integer(const std::string& field, int64_t absent) const;
  double number(const std::string& field) const;
  double number(const std::string& field, double absent) const;
  bool boolean(const std::string& field, bool absent) const;
  std::string string(const std::string& field) const;
  std::string string(const std::string& field, const std::string& absent) const;
  /// A list, or a single element standing for a list of one; empty where the field is absent.
  std::vector<int64_t> integers(const std::string& field) const;
  std::vector<std::string> strings(const std::string& field) const;
  std::vector<bool> booleans(const std::string& field) const;
  JsonObject object(const std::string& field) const;

  /// Throws `FormatError` "PATH: FIELD WHAT".
  [[noreturn]] void fail(const std::string& field, const std::string& what) const;

  struct Value;
  JsonObject(std::filesystem::path path, std::shared_ptr<const Value> value, std::string prefix = {});
  const Value& value() const {
    return *value_;
  }

 private:
  std::filesystem::path path_;
  std::shared_ptr<const Value> value_;
  std::string prefix_;
};

/// A JSON object that is written field by field, in the order of the calls.
class JsonFields {
 public:
  JsonFields();
  ~JsonFields();
  JsonFields(JsonFields&&) noexcept;
  JsonFields& operator=(JsonFields&&) noexcept;

  JsonFields& set(const std::string& field, std::nullptr_t);
  JsonFields& set(const std::string& field, bool value);
  JsonFields& set(const std::string& field, int64_t value);
  JsonFields& set(const std::string& field, double value);
  JsonFields& set(const std::string& field, const char* value);
  JsonFields& set(const std::string& field, const std::string& value);
  JsonFields& set(const std::string& field, const std::vector<int64_t>& value);
  JsonFields& set(const std::string& field, const std::vector<std::string>& value);
  JsonFields& set(const std::string& field, const std::vector<bool>& value);
  JsonFields& set(const std::string& field, const JsonFields& value);
  /// Takes the field out, where it is there.
  JsonFields& remove(const std::string& field);

  /// The text of the object, indented by two, with a line's end. Throws `c10::ValueError` where a string is not UTF-8.
  std::string text() const;

  struct Value;
  Value& value() {
    return *value_;
  }

 private:
  std::unique_ptr<Value> value_;
};

} // namespace rora
