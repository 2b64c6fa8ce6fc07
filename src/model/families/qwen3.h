#pragma once

#include <rora/model/families/family.h>

#include <memory>

namespace rora::detail {

/// Qwen3's dense models (transformers' `Qwen3ForCausalLM`): norms of each head's q and k, biases where `attention_bias`
/// asks for them, and Qwen2's windows.
std::shared_ptr<const ModelFamily> qwen3_family();

} // namespace rora::detail
