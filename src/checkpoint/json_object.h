#pragma once

#include "json.h"

#include <rora/checkpoint/json_object.h>

#include <nlohmann/json.hpp>

namespace rora {

namespace detail {

using Json = nlohmann::ordered_json;

} // namespace detail

struct JsonObject::Value {
  detail::Json json;
};

struct JsonFields::Value {
  detail::Json json = detail::Json::object();
};

namespace detail {

using rora::JsonObject;

inline const Json& json_of(const JsonObject& object) {
  return object.value().json;
}

inline Json& json_of(JsonFields& fields) {
  return fields.value().json;
}

} // namespace detail
} // namespace rora
