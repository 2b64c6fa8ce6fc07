#include "rms_norm_shrink.h"

#include "../launch.h"

#include <rora/ops/rms_norm_shrink.h>

#include <ATen/ATen.h>

#include <utility>
#include <vector>

#if defined(RORA_HAS_CUDA)
#include <kernels/kernels.h>

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>
#endif

namespace rora::ops::detail {
namespace {

/// y of x's sizes and Ŝ `[tokens, rank]`, each row of which follows its y: products of both are one then. All rows are
/// whole accesses of 16 bytes where x's are.
std::pair<at::Tensor, at::Tensor> empty_side_by_side(const at::Tensor& x, int64_t tokens, int64_t rank) {
  constexpr int64_t kNumbers = 8;
  const int64_t size = x.size(-1);
  const at::Tensor rows = at::empty({tokens, (size + rank + kNumbers - 1) / kNumbers * kNumbers}, x.options());
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes.back() = rows.size(1);
  return {rows.view(sizes).narrow(-1, 0, size), rows.narrow(1, size, rank)};
}

} // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> rms_norm_shrink_forward(
    const RMSNormShrinkKernel& kernel, const at::Tensor& x, const std::optional<at::Tensor>& added,
    const at::Tensor& weight, double eps, const at::Tensor& a, double scale) {
  const auto is_like_x = [&](const at::Tensor& each) {
    return each.scalar_type() == x.scalar_type() && each.device() == x.device();
  };
  const auto by_reference = [&] { return reference::rms_norm_shrink_forward(x, added, weight, eps, a, scale); };
  if (x.scalar_type() != at::kBFloat16 || x.dim() == 0 || x.numel() == 0 || !is_like_x(weight) || a.dim() != 2 ||
      a.device() != x.device() || weight.dim() != 1 || weight.size(0) != x.size(-1) || a.size(1) != x.size(-1) ||
      (added && (!is_like_x(*added) || added->sizes() != x.sizes()))) {
    return by_reference();
  }
  const int64_t tokens = x.numel() / x.size(-1);
  const int64_t groups =
      kernels::RMSNormShrinkParameters::groups_for(tokens, x.size(-1), a.size(0), kernel.most_shared_bytes());
  if (groups == 0) {
    return by_reference();
  }
  const at::Tensor rows = as_rows(x), added_rows = added ? as_rows(*added) : at::Tensor();
  const at::Tensor scales = weight.contiguous(), rows_of_a = as_rows(a.to(x.scalar_type()));
  at::Tensor sum = added ? at::empty(x.sizes(), x.options()) : at::Tensor();
  auto [y, shrunk] = empty_side_by_side(x, tokens, a.size(0));
  at::Tensor rstd = at::empty(x.sizes().slice(0, x.dim() - 1), x.options().dtype(at::kFloat));
  kernels::RMSNormShrinkParameters p;
  p.norm.type = kernel_type(x);
  p.norm.size = x.size(-1);
  p.norm.eps = eps;
  p.norm.x = kernel_rows(rows);
  if (added) {
    p.norm.added = kernel_rows(added_rows);
    p.norm.sum = {sum.data_ptr(), p.norm.size};
  }
  p.norm.weight = scales.data_ptr();
  p.norm.y = {y.data_ptr(), shrunk.stride(0)};
  p.norm.rstd = rstd.data_ptr();
  p.rows = tokens;
  p.rank = a.size(0);
  p.scale = scale;
  p.a = kernel_rows(rows_of_a);
  p.shrunk = kernel_rows(shrunk);
  if (!p.fits()) {
    return by_reference();
  }
  kernel.run(p, groups);
  return {sum, y, rstd, shrunk};
}

#if defined(RORA_HAS_CUDA)
namespace {

constexpr RMSNormShrinkKernel kCudaKernel{
    kernels::cuda::most_shared_bytes, [](const kernels::RMSNormShrinkParameters& p, int64_t groups) {
      C10_CUDA_CHECK(kernels::cuda::rms_norm_shrink(p, groups, c10::cuda::getCurrentCUDAStream()));
    }};

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> forward_on_cuda(
    const at::Tensor& x, const std::optional<at::Tensor>& added, const at::Tensor& weight, double eps,
    const at::Tensor& a, double scale) {
  const c10::DeviceGuard guard(x.device());
  return rms_norm_shrink_forward(kCudaKernel, x, added, weight, eps, a, scale);
}

TORCH_LIBRARY_IMPL(rora, CUDA, m) {
  m.impl("rms_norm_shrink_forward", forward_on_cuda);
}

} // namespace
#endif

} // namespace rora::ops::detail
