#pragma once

#include <rora/core/linkage.h>

#include <ATen/core/Tensor.h>

#include <memory>
#include <utility>

namespace rora::ops {

/// Memory that waits for a leaf's next gradient. A node that forms that gradient whole writes it there, and autograd,
/// which takes over a leaf's first gradient as it is, makes it the leaf's `grad()`: no zeros are filled in before,
/// nothing is added and nothing copied. Nodes that are given none are right as well: theirs is a tensor of its own.
///
/// One node takes it, once after each offer. What else reaches the leaf is added by autograd, and the sum may lie
/// elsewhere. Gradients that `torch::autograd::grad` returns are never there. One backward pass at a time may reach
/// such a leaf.
class GradientBuffer {
 public:
  /// `buffer` is dense and of the leaf's sizes, dtype and device.
  explicit GradientBuffer(at::Tensor buffer) : buffer_(std::move(buffer)) {}

  /// Offers it to the next node that would write there, where one has asked before. Else says no: the leaf's gradient
  /// would be memory of its own beside the buffer.
  bool offer() {
    return offered_ = asked_for_;
  }

  void withdraw() {
    offered_ = false;
  }

  /// For a node: the memory, or an undefined tensor where it is not offered, no longer fits the leaf, or the leaf has a
  /// gradient, to which autograd adds.
  at::Tensor take(const at::Tensor& leaf);

 private:
  at::Tensor buffer_;
  bool asked_for_ = false;
  bool offered_ = false;
};

/// `buffer->take(leaf)`, or an undefined tensor without a buffer.
at::Tensor take_buffer(const std::shared_ptr<GradientBuffer>& buffer, const at::Tensor& leaf);

} // namespace rora::ops

#if !defined(RORA_LINKED)
#include <rora/core/gradient_buffer_inl.h>
#endif
