#include <rora/core/dora_norm.h>

#include "launch.h"

#include <ATen/ATen.h>
#include <torch/library.h>

namespace rora::ops {
namespace {

at::Tensor dora_norm_rows_kernel(
    const at::Tensor& weight_norm_squared, const at::Tensor& product, const at::Tensor& b, const at::Tensor& gram,
    double scale) {
  if (!detail::has_kernel(b, weight_norm_squared, product, gram) || weight_norm_squared.scalar_type() != at::kFloat ||
      product.scalar_type() != at::kFloat || gram.scalar_type() != at::kFloat) {
    return reference::dora_norm_rows(weight_norm_squared, product, b, gram, scale);
  }
  const at::Tensor dense_norms = weight_norm_squared.contiguous(), dense_gram = gram.contiguous();
  const at::Tensor b_rows = detail::as_rows(b);
  at::Tensor norm = at::empty({b.size(0)}, weight_norm_squared.options());
  kernels::DoRANormParameters p;
  p.type = detail::kernel_type(b);
  p.rank = b.size(1);
  p.scale = scale;
  p.weight_norm_squared = dense_norms.const_data_ptr<float>();
  p.product = product.const_data_ptr<float>();
  p.product_stride[0] = product.stride(0);
  p.product_stride[1] = product.stride(1);
  p.b = detail::kernel_rows(b_rows);
  p.gram = dense_gram.const_data_ptr<float>();
  p.norm = norm.mutable_data_ptr<float>();
  detail::launch_on_cuda(b, &kernels::CudaKernels::dora_norm, p, b.size(0));
  return norm;
}

TORCH_LIBRARY_IMPL(rora, CompositeExplicitAutograd, m) {
  m.impl("dora_norm_rows", reference::dora_norm_rows);
}
TORCH_LIBRARY_IMPL(rora, CUDA, m) {
  m.impl("dora_norm_rows", dora_norm_rows_kernel);
}

} // namespace
} // namespace rora::ops
