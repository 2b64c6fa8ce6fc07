#pragma once

#include <rora/model/families/family.h>

#include <memory>

namespace rora::detail {

/// Granite's dense models (transformers' `GraniteForCausalLM`): multipliers of embeddings, of q·k and of what attention
/// and MLP add, and logits that are divided.
std::shared_ptr<const ModelFamily> granite_family();

} // namespace rora::detail
