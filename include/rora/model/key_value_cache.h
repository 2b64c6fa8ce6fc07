#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>
#include <vector>

namespace rora {

/// Keys and values of the tokens seen so far, a pair a layer, each `[batch, kv_heads, prefix + cached, head_dim]`:
/// behind those of the layer's prefix, if it has one.
class KeyValueCache {
 public:
  /// How many tokens a row holds, prefixes not counted.
  int64_t size() const {
    return size_;
  }

  /// Puts keys and values `[batch, kv_heads, prefix, head_dim]` in front of all that a layer of an empty cache will
  /// hold.
  void put_prefix(size_t layer, const at::Tensor& keys, const at::Tensor& values);

  /// How many keys stand in front of a layer's tokens.
  int64_t prefix(size_t layer) const {
    return layer < layers_.size() ? layers_[layer].prefix : 0;
  }

  /// Appends a step's keys and values to a layer's and returns all of them. The buffers grow by doubling.
  std::pair<at::Tensor, at::Tensor> append(size_t layer, const at::Tensor& keys, const at::Tensor& values);

  /// Counts `tokens` more, once every layer has appended them.
  void advance(int64_t tokens) {
    size_ += tokens;
  }

  /// Row i becomes what row `rows[i]` (int64) was: beams that go on, rows that have ended and are dropped. No
  /// gradients go through it.
  void select(const at::Tensor& rows);

 private:
  struct Layer {
    at::Tensor keys;
    at::Tensor values;
    int64_t prefix = 0;
  };
  Layer& at(size_t layer);
  std::vector<Layer> layers_;
  int64_t size_ = 0;
};

} // namespace rora
