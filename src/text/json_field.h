#pragma once

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace rora::detail {

/// Where a value stands: for errors that are found once the document is gone.
struct JsonPlace {
  std::filesystem::path path;
  std::string name;

  /// Throws `FormatError`: "PATH: NAME: what".
  [[noreturn]] void fail(const std::string& what) const;
};

/// A value inside a JSON file, with the path of the file and the name of the value, so that every error says both. The
/// document outlives its fields.
class JsonField {
 public:
  JsonField(const std::filesystem::path& path, const nlohmann::json& document);
  JsonField(std::filesystem::path&&, const nlohmann::json&) = delete; ///< the path outlives its fields, too

  /// The member `key`; a field that is null where there is none.
  JsonField operator[](std::string_view key) const;

  /// The elements of an array.
  std::vector<JsonField> elements() const;

  JsonPlace place() const;

  bool is_null() const;
  bool is_string() const;
  bool is_array() const;
  const nlohmann::json& value() const;

  /// The value, which has to have this type.
  std::string string() const;
  bool boolean() const;
  int64_t integer() const;
  bool boolean_or(bool fallback) const;
  const nlohmann::json& object() const;

  /// Refuses an object that has a key not listed here.
  void allow_only(std::initializer_list<std::string_view> keys) const;

  /// Throws `FormatError`: "PATH: NAME: what".
  [[noreturn]] void fail(const std::string& what) const;

 private:
  JsonField(const std::filesystem::path* path, std::string name, const nlohmann::json* value);
  [[noreturn]] void fail_type(std::string_view expected) const;

  const std::filesystem::path* path_;
  std::string name_;
  const nlohmann::json* value_;
};

/// The JSON object in a file. Throws `FileError` and `FormatError`.
nlohmann::json read_json_object(const std::filesystem::path& path);

} // namespace rora::detail
