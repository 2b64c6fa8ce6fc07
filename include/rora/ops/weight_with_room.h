#pragma once

#include <rora/core/linear_weight.h>

#include <cstdint>
#include <memory>

namespace rora::ops {

/// A copy of the frozen weight W `[out, in]` in rows that have room for `columns` numbers more: with an adapter's B
/// there, x·Wᵀ + Ŝ·Bᵀ is on a GPU one product of (x | Ŝ) and (W | B), wherever x and Ŝ lie side by side too. Where the
/// tensor has been moved or has got another dtype since, it has no room.
///
/// Throws for what is no matrix, and for no columns.
std::shared_ptr<LinearWeight> weight_with_room(const at::Tensor& weight, int64_t columns);

} // namespace rora::ops
