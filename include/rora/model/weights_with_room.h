#pragma once

#include <rora/model/causal_lm.h>

#include <cstdint>

namespace rora {

/// Copies the frozen weights of the model's projections into memory with room for adapters of up to `rank`
/// (`ops::weights_with_room`), those of q, k and v into one block and those of gate and up: a GPU then forms W·x + B·Ŝ
/// in one product where a norm gives x and Ŝ, and dx in one product. The head's weight stays as it is, as do weights
/// that are not dense.
///
/// Throws, before anything is copied, for a model whose base is trained, and while an adapter is merged.
void leave_room_beside_weights(CausalLM model, int64_t rank);

} // namespace rora
