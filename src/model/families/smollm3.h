#pragma once

#include <rora/model/families/family.h>

#include <memory>

namespace rora::detail {

/// SmolLM3 (transformers' `SmolLM3ForCausalLM`): layers without rotary positions among the others, every fourth where
/// config.json does not say which, and windows by layer.
std::shared_ptr<const ModelFamily> smollm3_family();

} // namespace rora::detail
