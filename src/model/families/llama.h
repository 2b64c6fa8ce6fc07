#pragma once

#include <rora/model/families/family.h>

#include <memory>

namespace rora::detail {

/// LLaMA 1 to 3 and what has their form (transformers' `LlamaForCausalLM`).
std::shared_ptr<const ModelFamily> llama_family();

} // namespace rora::detail
