#pragma once

#include <rora/adapters/adapter_kind.h>

#include <optional>
#include <string>

namespace rora::detail {

/// The kind of that `peft_type`, if there is one.
std::optional<AdapterKindEntry> find_adapter_kind(const std::string& peft_type);

/// Their names, for messages: "LORA or BOTTLENECK or PREFIX_TUNING".
std::string known_adapter_kinds();

} // namespace rora::detail
