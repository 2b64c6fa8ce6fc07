#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

namespace rora::ops::detail {

/// `x` on `device`. From the CPU to a GPU it goes by way of pinned memory: an ordinary copy would wait until the GPU
/// has done all that it was given before.
inline at::Tensor to_device(const at::Tensor& x, at::Device device) {
  return x.is_cpu() && device.is_cuda() ? x.contiguous().pin_memory().to(device, /*non_blocking=*/true) : x.to(device);
}

} // namespace rora::ops::detail
