#pragma once

#include <algorithm>
#include <cstdint>

namespace rora {

/// Numbers that a layer, or a part of one, keeps for its backward, a token: in the model's dtype, but for `statistics`.
struct KeptNumbers {
  int64_t norm_inputs = 0;
  int64_t projection_inputs = 0; ///< those that no other operation keeps
  int64_t shrunk = 0; ///< s·A·x of each low-rank adapter, and what other kinds keep of their own
  int64_t attention = 0; ///< q and k, turned by their positions, v, and the output
  int64_t gate_and_up = 0;
  int64_t dora = 0;
  int64_t statistics = 0; ///< of norms and attention's rows, in fp32
  int64_t backward = 0; ///< the most that its backward forms beside them

  /// Those in the model's dtype.
  int64_t numbers() const {
    return norm_inputs + projection_inputs + shrunk + attention + gate_and_up + dora;
  }

  /// Adds what another part keeps; of what their backwards form, one is there at a time.
  KeptNumbers& operator+=(const KeptNumbers& other) {
    norm_inputs += other.norm_inputs;
    projection_inputs += other.projection_inputs;
    shrunk += other.shrunk;
    attention += other.attention;
    gate_and_up += other.gate_and_up;
    dora += other.dora;
    statistics += other.statistics;
    backward = std::max(backward, other.backward);
    return *this;
  }
};

/// What one layer keeps for its backward.
struct LayerMemory {
  KeptNumbers all; ///< a token; its `backward` is attention's alone: the MLP's memory is free by then
  /// Of those, what stands behind attention: in the last layer, for labelled tokens alone.
  KeptNumbers behind_attention;
  /// Numbers that the output projection keeps of attention's output where the layer keeps labelled tokens of it alone,
  /// and attention thus another tensor.
  int64_t chosen_from_attention = 0;
  /// Numbers a row, whatever its length: of keys and values in front of it.
  int64_t row = 0;
};

} // namespace rora
