#pragma once

#include "cpu/kernels.h"
#include "cpu/parallel_for.h"
#include "cuda/kernels.h"

#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>

#include <algorithm>
#include <cstdint>

namespace rora::ops::detail {

/// Whether the kernels of x's device have its dtype and the others lie beside it; all else takes the reference, which
/// says what is wrong.
template <class... Tensors>
bool has_kernel(const at::Tensor& x, const Tensors&... others) {
  if (((others.device() != x.device()) || ...)) {
    return false;
  }
  const bool known = x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16;
  if (x.is_cuda()) {
    return known && kernels::cuda_kernels() != nullptr;
  }
  return x.is_cpu() && (known || x.scalar_type() == at::kDouble);
}

inline kernels::Type kernel_type(const at::Tensor& x) {
  switch (x.scalar_type()) {
    case at::kDouble:
      return kernels::Type::kDouble;
    case at::kBFloat16:
      return kernels::Type::kBFloat16;
    default:
      return kernels::Type::kFloat;
  }
}

/// `x` `[..., size]` as dense rows, or as rows apart where one stride describes them; copied where none does.
inline at::Tensor as_rows(const at::Tensor& x) {
  const at::Tensor rows = x.dim() == 2 ? x : x.reshape({-1, x.size(-1)});
  return rows.size(1) <= 1 || rows.stride(1) == 1 ? rows : rows.contiguous();
}

/// Memory `[..., size]` that a kernel is to write into, as rows; never a copy. Throws where one stride does not
/// describe them.
inline at::Tensor rows_of(const at::Tensor& memory) {
  return memory.dim() == 2 ? memory : memory.view({-1, memory.size(-1)});
}

/// Whether a kernel may write into `memory` what is like x: one stride describes its rows.
inline bool takes_rows(const at::Tensor& memory, const at::Tensor& x) {
  bool even = memory.sizes() == x.sizes() && memory.dtype() == x.dtype() && memory.device() == x.device() &&
      memory.stride(-1) == 1;
  for (int64_t dim = memory.dim() - 3; even && dim >= 0; --dim) {
    even = memory.size(dim) == 1 || memory.stride(dim) == memory.size(dim + 1) * memory.stride(dim + 1);
  }
  return even;
}

inline kernels::Rows kernel_rows(const at::Tensor& rows) {
  return {rows.data_ptr(), rows.stride(0)};
}

/// Tells autograd that a kernel has written into `y`.
inline void mark_changed(const at::Tensor& y) {
  if (!y.is_inference()) {
    y.unsafeGetTensorImpl()->bump_version();
  }
}

template <class Parameters>
using CpuKernel = void (*kernels::Kernels::*)(const Parameters&, int64_t begin, int64_t end);
template <class Parameters>
using CudaKernel = void (*kernels::CudaKernels::*)(const Parameters&, int64_t count);

/// Runs a kernel over `count` items of about `cost` elements each on LibTorch's threads.
template <class Parameters>
void launch_on_cpu(CpuKernel<Parameters> kernel, const Parameters& parameters, int64_t count, int64_t cost) {
  constexpr int64_t kElementsOfThread = 16384;
  const int64_t grain = std::max<int64_t>(1, kElementsOfThread / std::max<int64_t>(1, cost));
  parallel_for(count, grain, [&](int64_t begin, int64_t end) { (kernels::kernels().*kernel)(parameters, begin, end); });
}

/// Runs a kernel over `count` items on the current stream of the GPU of `on`.
template <class Parameters>
void launch_on_cuda(const at::Tensor& on, CudaKernel<Parameters> kernel, const Parameters& parameters, int64_t count) {
  const c10::DeviceGuard guard(on.device());
  (kernels::cuda_kernels()->*kernel)(parameters, count);
}

/// Runs a kernel that both have, on the device of `on`.
template <class Parameters>
void launch(
    const at::Tensor& on, CpuKernel<Parameters> cpu, CudaKernel<Parameters> cuda, const Parameters& parameters,
    int64_t count, int64_t cost) {
  if (on.is_cuda()) {
    launch_on_cuda(on, cuda, parameters, count);
  } else {
    launch_on_cpu(cpu, parameters, count, cost);
  }
}

} // namespace rora::ops::detail
