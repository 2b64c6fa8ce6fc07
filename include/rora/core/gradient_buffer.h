#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/graph_task.h>

#include <memory>
#include <utility>

namespace rora::ops {

/// Memory that waits for a leaf's next gradient. A node that forms that gradient whole writes it there, and autograd, which
/// takes over a leaf's first gradient as it is, makes it the leaf's `grad()`: no zeros are filled in before, nothing is
/// added and nothing copied. Nodes that are given none are right as well: theirs is a tensor of its own.
///
/// One node takes it, once after each offer. What else reaches the leaf is added by autograd, and the sum may lie elsewhere.
/// Gradients that `torch::autograd::grad` returns are never there. One backward pass at a time may reach such a leaf.
class GradientBuffer {
 public:
  /// `buffer` is dense and of the leaf's sizes, dtype and device.
  explicit GradientBuffer(at::Tensor buffer) : buffer_(std::move(buffer)) {}

  /// Offers it to the next node that would write there, where one has asked before. Else says no: the leaf's gradient would
  /// be memory of its own beside the buffer.
  bool offer() {
    return offered_ = asked_for_;
  }

  void withdraw() {
    offered_ = false;
  }

  /// For a node: the memory, or an undefined tensor where it is not offered, no longer fits the leaf, or the leaf has a
  /// gradient, to which autograd adds.
  at::Tensor take(const at::Tensor& leaf) {
    if (!in_plain_backward()) {
      return {};
    }
    asked_for_ = true;
    const bool fits = buffer_.sizes() == leaf.sizes() && buffer_.scalar_type() == leaf.scalar_type() &&
        buffer_.device() == leaf.device() && !leaf.grad().defined();
    const bool takes = std::exchange(offered_, false) && fits;
    return takes ? buffer_.detach() : at::Tensor(); // a tensor of its own, so that autograd may take it over
  }

 private:
  /// Whether all leaves get their gradients, and nobody else: `torch::autograd::grad` names the nodes that it wants run.
  static bool in_plain_backward() {
    const auto* named = torch::autograd::get_current_graph_task_exec_info();
    return named == nullptr || named->empty();
  }

  at::Tensor buffer_;
  bool asked_for_ = false;
  bool offered_ = false;
};

/// `buffer->take(leaf)`, or an undefined tensor without a buffer.
inline at::Tensor take_buffer(const std::shared_ptr<GradientBuffer>& buffer, const at::Tensor& leaf) {
  return buffer != nullptr ? buffer->take(leaf) : at::Tensor();
}

} // namespace rora::ops
