#pragma once

#include <rora/model/families/family.h>

#include <memory>

namespace rora::detail {

/// OLMo 2 (transformers' `Olmo2ForCausalLM`): norms after attention and after the MLP in place of those before, and one
/// norm of all heads' q and one of their k.
std::shared_ptr<const ModelFamily> olmo2_family();

} // namespace rora::detail
