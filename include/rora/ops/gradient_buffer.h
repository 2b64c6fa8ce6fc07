#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/TensorImpl.h>
#include <c10/util/intrusive_ptr.h>
#include <torch/csrc/autograd/graph_task.h>

#include <utility>

namespace rora::ops {

/// Memory that waits at a leaf for its next gradient. A node that forms that gradient whole writes it there, and autograd,
/// which takes over a leaf's first gradient as it is, makes it the leaf's `grad()`: no zeros are filled in before, nothing
/// is added and nothing copied. Nodes that know nothing of it are right as well: theirs is a tensor of its own.
///
/// One node takes it, once after each offer. What else reaches the leaf is added by autograd, and the sum may lie elsewhere.
/// Gradients that `torch::autograd::grad` returns are never there. One backward pass at a time may reach such a leaf.
class GradientBuffer : public c10::BackendMeta {
 public:
  explicit GradientBuffer(at::Tensor buffer) : buffer_(std::move(buffer)) {}

  /// From now on nodes that would write there are taken note of. `buffer` is dense and of the leaf's sizes, dtype and device.
  static void attach(const at::Tensor& leaf, at::Tensor buffer) {
    leaf.unsafeGetTensorImpl()->set_backend_meta(c10::make_intrusive<GradientBuffer>(std::move(buffer)));
  }

  /// Offers it to the next such node, where there was one before. Else says no: the leaf's gradient would be memory of its
  /// own beside the buffer.
  static bool offer(const at::Tensor& leaf) {
    GradientBuffer* found = of(leaf);
    return found != nullptr && (found->offered_ = found->asked_for_);
  }

  static void withdraw(const at::Tensor& leaf) {
    if (GradientBuffer* found = of(leaf)) {
      found->offered_ = false;
    }
  }

  /// Undefined where it is not offered, no longer fits the leaf, or the leaf has a gradient, to which autograd adds.
  static at::Tensor take(const at::Tensor& leaf) {
    GradientBuffer* found = of(leaf);
    if (found == nullptr || !in_plain_backward()) {
      return {};
    }
    found->asked_for_ = true;
    const at::Tensor& buffer = found->buffer_;
    const bool fits = buffer.sizes() == leaf.sizes() && buffer.scalar_type() == leaf.scalar_type() &&
        buffer.device() == leaf.device() && !leaf.grad().defined();
    const bool takes = std::exchange(found->offered_, false) && fits;
    return takes ? buffer.detach() : at::Tensor(); // a tensor of its own, so that autograd may take it over
  }

  /// None: what is made from the leaf, as by `detach()`, has a gradient of its own.
  c10::intrusive_ptr<c10::BackendMeta> clone(const c10::intrusive_ptr<c10::BackendMeta>&) const override {
    return {};
  }

 private:
  static GradientBuffer* of(const at::Tensor& leaf) {
    return dynamic_cast<GradientBuffer*>(leaf.unsafeGetTensorImpl()->get_backend_meta());
  }
  /// Whether all leaves get their gradients, and nobody else: `torch::autograd::grad` names the nodes that it wants run.
  static bool in_plain_backward() {
    const auto* named = torch::autograd::get_current_graph_task_exec_info();
    return named == nullptr || named->empty();
  }

  at::Tensor buffer_;
  bool asked_for_ = false;
  bool offered_ = false;
};

} // namespace rora::ops
