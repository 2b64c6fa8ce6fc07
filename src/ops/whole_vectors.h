#pragma once

#include <ATen/ATen.h>

#include <cstdint>

namespace rora::ops::detail {

/// `x` as kernels take it that read 16 bytes at once: its last dimension dense, and all rows at multiples of 16 bytes;
/// copied where it lies otherwise.
inline at::Tensor in_whole_vectors(const at::Tensor& x) {
  constexpr int64_t kBytes = 16;
  const int64_t element = x.element_size();
  bool whole = x.stride(-1) == 1 && reinterpret_cast<uintptr_t>(x.const_data_ptr()) % kBytes == 0;
  for (int64_t dim = 0; dim + 1 < x.dim(); ++dim) {
    whole = whole && x.stride(dim) * element % kBytes == 0;
  }
  return whole ? x : x.clone(at::MemoryFormat::Contiguous);
}

} // namespace rora::ops::detail
