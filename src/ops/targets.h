#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace rora::ops::detail {

/// Throws `c10::IndexError` for a target that is neither in [0, vocab) nor `kIgnoreIndex`. They are looked at where
/// they lie: a program that has them on the CPU waits for no GPU.
void check_targets(const at::Tensor& targets, int64_t vocab);

/// `token_cross_entropy` of targets that lie beside `hidden` and are known to be right: nothing looks at them.
at::Tensor cross_entropy_of_checked(
    const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets, int64_t chunk = 0);

} // namespace rora::ops::detail
