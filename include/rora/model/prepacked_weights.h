#pragma once

#include <rora/model/causal_lm.h>

#include <cstdint>

namespace rora {

/// Keeps the frozen weights of the model's projections in the layout of the CPU's products too
/// (`ops::prepack_weight`) and returns the bytes that this takes: training then packs none of them at each step. The
/// head's weight stays as it is, as do weights that are not dense.
///
/// Throws, before anything is packed, for a model that is not on the CPU, whose dtype this processor does not pack,
/// or whose base is trained; and while an adapter is merged.
int64_t prepack_weights(CausalLM model);

} // namespace rora
