#pragma once

#include "../checkpoint/json_object.h"

#include <cstdint>
#include <optional>
#include <vector>

namespace rora::detail {

/// `eos_token_id` of config.json. As in transformers, null is none, but an absent field is the first LLaMA's.
inline std::vector<int64_t> config_eos_token_id(const JsonObject& config) {
  return config.contains("eos_token_id") ? config.integers("eos_token_id") : std::vector<int64_t>{2};
}

/// `bos_token_id` of config.json, by the same rule.
inline std::optional<int64_t> config_bos_token_id(const JsonObject& config) {
  if (!config.contains("bos_token_id")) {
    return 1;
  }
  return config.has("bos_token_id") ? std::optional(config.integer("bos_token_id")) : std::nullopt;
}

} // namespace rora::detail
