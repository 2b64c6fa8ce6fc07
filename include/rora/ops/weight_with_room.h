#pragma once

#include <rora/core/linear_weight.h>

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace rora::ops {

/// Copies of the frozen weights Wᵢ `[outᵢ, in]` that read one x, below each other in rows that have room for `rank`
/// numbers more, and below them rows for as many ranks as there are weights: with each adapter's B behind its W,
/// x·Wᵀ + Ŝ·Bᵀ is on a GPU one product of (x | Ŝ) and (W | B), wherever x and Ŝ lie side by side too. With all A below
/// the last W, dx is one product of (dy₀ | dy₁ | … | dS) and (W₀ ; W₁ ; … ; A). Where a weight's tensor has been moved
/// or has got another dtype since, it has no room.
///
/// Throws for what is no matrix, for weights of different `in`, dtypes or devices, for none, and for a rank of 0.
std::vector<std::shared_ptr<LinearWeight>> weights_with_room(const std::vector<at::Tensor>& weights, int64_t rank);

} // namespace rora::ops
