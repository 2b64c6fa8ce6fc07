#pragma once

#include <rora/core/linear_weight.h>

#include <cstdint>

namespace rora::ops {

/// Whether the CPU's products read weights of this dtype in a layout of their own (AVX-512 BF16; a processor with
/// matrix units has oneDNN's products in bfloat16 and packs none).
bool can_prepack_weights(at::ScalarType dtype);

/// A frozen weight that is kept in the layout of the CPU's products too, once for x·Wᵀ and once for dy·W: they need not
/// be packed for every product. It takes twice the weight's memory beside it. Where the tensor has changed since, or
/// has been moved, it is used as it is now.
///
/// Throws for a weight that `can_prepack_weights` does not cover, that is itself trained, or an inference tensor.
std::shared_ptr<LinearWeight> prepack_weight(const at::Tensor& weight);

} // namespace rora::ops
