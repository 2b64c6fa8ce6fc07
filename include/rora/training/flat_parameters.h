#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace rora {

namespace ops {
class GradientBuffer;
}

/// Trained tensors side by side in one buffer, and their gradients in another: one optimiser update, one norm and, over
/// several machines, one reduction for all of them. Matrices follow what is none, those of shorter rows first; among equals
/// the order is that of the list. The A that one product takes (those of q, k and v) are so one matrix, which nothing has to
/// copy.
class FlatParameters {
 public:
  /// Moves the tensors' values into the buffer; each tensor is a view of it from then on. Throws `std::invalid_argument` for
  /// none, for one that is listed twice, and for tensors of unlike dtype or device.
  explicit FlatParameters(std::vector<at::Tensor> parameters);

  const at::Tensor& values() const {
    return values_;
  }
  /// The gradients of all, zeros for a tensor that has none, brought together by this call: it is called anew after each
  /// backward. Each tensor's `grad()` is a view of them from then on, to which backward adds.
  const at::Tensor& gradients();

  /// Fills the gradients with zeros. On a CPU those that their nodes write in place (an adapter's A and B, from the second
  /// pass on: `ops::GradientBuffer`) need none: such a tensor has no `grad()` until the next backward.
  void zero_grad();

  /// Says that the values have changed: what is derived from the tensors (DoRA's norm) is then made anew.
  void mark_changed();

  /// ‖gradients‖₂ before clipping; where it is over `max_norm` (0 is off) the gradients are scaled by
  /// max_norm/(norm + 1e-6), as `torch.nn.utils.clip_grad_norm_` does. The norm is a scalar of the gradients' dtype and
  /// device: nothing waits for a GPU.
  at::Tensor clip_gradients(double max_norm);

 private:
  std::vector<at::Tensor> parameters_;
  std::vector<at::Tensor> gradient_views_; ///< of the buffer, one of each parameter
  std::vector<std::shared_ptr<ops::GradientBuffer>> buffers_; ///< of each parameter, on a CPU
  at::Tensor values_;
  at::Tensor gradients_;
};

} // namespace rora
