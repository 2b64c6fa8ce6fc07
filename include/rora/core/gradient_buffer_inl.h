#pragma once

#include <rora/core/gradient_buffer.h>

#include <torch/csrc/autograd/graph_task.h>

namespace rora::ops {
namespace detail {

/// Whether all leaves get their gradients, and nobody else: `torch::autograd::grad` names the nodes that it wants run.
inline bool in_plain_backward() {
  const auto* named = torch::autograd::get_current_graph_task_exec_info();
  return named == nullptr || named->empty();
}

} // namespace detail

RORA_INLINE at::Tensor GradientBuffer::take(const at::Tensor& leaf) {
  if (!detail::in_plain_backward()) {
    return {};
  }
  asked_for_ = true;
  const bool fits = buffer_.sizes() == leaf.sizes() && buffer_.scalar_type() == leaf.scalar_type() &&
      buffer_.device() == leaf.device() && !leaf.grad().defined();
  const bool takes = std::exchange(offered_, false) && fits;
  return takes ? buffer_.detach() : at::Tensor(); // a tensor of its own, so that autograd may take it over
}

RORA_INLINE at::Tensor take_buffer(const std::shared_ptr<GradientBuffer>& buffer, const at::Tensor& leaf) {
  return buffer != nullptr ? buffer->take(leaf) : at::Tensor();
}

} // namespace rora::ops
