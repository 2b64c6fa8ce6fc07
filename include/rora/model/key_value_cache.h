#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>
#include <vector>

namespace rora {

/// Keys and values of the tokens seen so far, a pair a layer, each `[batch, kv_heads, cached, head_dim]`.
class KeyValueCache {
 public:
  /// How many tokens a row holds.
  int64_t size() const {
    return size_;
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
  };
  std::vector<Layer> layers_;
  int64_t size_ = 0;
};

} // namespace rora
