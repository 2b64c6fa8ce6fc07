#pragma once

#include <rora/model/families/family.h>

#include <memory>

namespace rora::detail {

/// Mistral 7B and what has its form (transformers' `MistralForCausalLM`): a window in every layer, or in none.
std::shared_ptr<const ModelFamily> mistral_family();

} // namespace rora::detail
