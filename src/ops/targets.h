#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>

namespace rora::ops::detail {

/// `targets` on `device`. Throws `std::out_of_range` for one that is neither in [0, vocab) nor `kIgnoredTarget`. They
/// are looked at where they lie: a program that has them on the CPU waits for no GPU.
at::Tensor checked_targets(const at::Tensor& targets, int64_t vocab, at::Device device);

} // namespace rora::ops::detail
