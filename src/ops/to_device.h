#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

namespace rora::ops::detail {

/// `x` on `device`. From the CPU to a GPU it goes by way of pinned memory of its own: an ordinary copy would wait until
/// the GPU has done all that it was given before. A tensor that is pinned already is copied at once, as its owner may
/// write into it again.
inline at::Tensor to_device(const at::Tensor& x, at::Device device) {
  if (!x.is_cpu() || !device.is_cuda() || x.is_pinned()) {
    return x.to(device);
  }
  return x.contiguous().pin_memory().to(device, /*non_blocking=*/true);
}

} // namespace rora::ops::detail
