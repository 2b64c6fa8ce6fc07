#pragma once

#include "device.h"

namespace rora::kernels::cuda {

RORA_DEVICE float warp_sum(float value) {
  RORA_UNROLL
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    value += shuffle_xor(value, mask);
  }
  return value;
}
RORA_DEVICE float warp_max(float value) {
  RORA_UNROLL
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    value = larger(value, shuffle_xor(value, mask));
  }
  return value;
}

/// Σ of `value` over a block of `Threads`, in each of them, in one order always. `memory` holds a float for each warp;
/// it is free again at the block's next barrier.
template <int Threads>
RORA_DEVICE float block_sum(float value, float* memory) {
  value = warp_sum(value);
  if (lane_index() == 0) {
    memory[warp_index()] = value;
  }
  sync_block();
  float sum = 0.0f;
  RORA_UNROLL
  for (int warp = 0; warp < Threads / kWarp; ++warp) {
    sum += memory[warp];
  }
  return sum;
}
template <int Threads>
RORA_DEVICE float block_max(float value, float* memory) {
  value = warp_max(value);
  if (lane_index() == 0) {
    memory[warp_index()] = value;
  }
  sync_block();
  float greatest = memory[0];
  RORA_UNROLL
  for (int warp = 1; warp < Threads / kWarp; ++warp) {
    greatest = larger(greatest, memory[warp]);
  }
  return greatest;
}

} // namespace rora::kernels::cuda
