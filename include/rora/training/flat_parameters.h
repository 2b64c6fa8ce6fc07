#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace rora {

/// Trained tensors side by side in one buffer, and their gradients in another: one optimiser update, one norm and, over
/// several machines, one reduction for all of them.
class FlatParameters {
 public:
  /// Moves the tensors' values into the buffer; each tensor is a view of it from then on, and its `grad()` a view of the
  /// gradients'. Throws `std::invalid_argument` for none, and for tensors of unlike dtype or device.
  explicit FlatParameters(std::vector<at::Tensor> parameters);

  const at::Tensor& values() const {
    return values_;
  }
  const at::Tensor& gradients() const {
    return gradients_;
  }

  /// Fills the gradients with zeros; they stay allocated.
  void zero_grad();

  /// Says that the values have changed: what is derived from the tensors (DoRA's norm) is then made anew.
  void mark_changed();

  /// ‖gradients‖₂ before clipping; where it is over `max_norm` (0 is off) the gradients are scaled by
  /// max_norm/(norm + 1e-6), as `torch.nn.utils.clip_grad_norm_` does. The norm is a scalar of the gradients' dtype and
  /// device: nothing waits for a GPU.
  at::Tensor clip_gradients(double max_norm);

 private:
  std::vector<at::Tensor> parameters_;
  at::Tensor values_;
  at::Tensor gradients_;
};

} // namespace rora
