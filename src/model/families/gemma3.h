#pragma once

#include <rora/model/families/family.h>

#include <memory>

namespace rora::detail {

/// Gemma 3's models of text alone (transformers' `Gemma3ForCausalLM`): embeddings times √hidden_size, norms before and
/// after that multiply by 1 + their weight, norms of each head's q and k, a GELU, and windows in five layers of six,
/// whose rotary embedding has a base of its own.
std::shared_ptr<const ModelFamily> gemma3_text_family();

} // namespace rora::detail
