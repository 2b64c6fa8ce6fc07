#pragma once

#include <rora/checkpoint/json_object.h>

#include <cmath>
#include <limits>
#include <string>

// How the kinds read and write numbers of adapter_config.json.
namespace rora::detail {

/// As an integer where it is one: PEFT's own files have it so.
inline void set_number(JsonFields& fields, const std::string& field, double value) {
  constexpr double kExact = 9007199254740992.0; // 2⁵³
  if (std::abs(value) < kExact && std::trunc(value) == value) {
    fields.set(field, static_cast<int64_t>(value));
  } else {
    fields.set(field, value);
  }
}

/// A number that float32 holds.
inline double read_float(const JsonObject& config, const std::string& field) {
  const double number = config.number(field);
  if (std::abs(number) > static_cast<double>(std::numeric_limits<float>::max())) {
    config.fail(field, "must be finite in float32, not " + config.text(field));
  }
  return number;
}

inline double read_float(const JsonObject& config, const std::string& field, double absent) {
  return config.has(field) ? read_float(config, field) : absent;
}

/// The probability of dropping an element.
inline double read_dropout(const JsonObject& config, const std::string& field) {
  const double dropout = config.number(field, 0.0);
  if (dropout < 0.0 || dropout >= 1.0) {
    config.fail(field, "must be in [0, 1)");
  }
  return dropout;
}

/// Throws where the field asks for another value than the one that there is.
inline void require_only(const JsonObject& config, const std::string& field, const std::string& only) {
  if (const std::string value = config.string(field, only); value != only) {
    config.fail(field, "'" + value + "' is not supported (" + only + " is)");
  }
}

} // namespace rora::detail
