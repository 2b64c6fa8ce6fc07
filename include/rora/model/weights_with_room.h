#pragma once

#include <rora/model/causal_lm.h>

#include <cstdint>

namespace rora {

/// Copies the frozen weights of the model's projections one by one into rows with room for `columns` numbers more
/// (`ops::weight_with_room`), for adapters of up to that rank, padded to a multiple of 8: a GPU then forms W·x + B·Ŝ in
/// one product where a norm gives x and Ŝ. The head's weight stays as it is, as do weights that are not dense.
///
/// Throws, before anything is copied, for a model whose base is trained, and while an adapter is merged.
void leave_room_beside_weights(CausalLM model, int64_t columns);

} // namespace rora
