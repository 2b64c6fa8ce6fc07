#include "prepacked_matrix.h"

#include "launch.h"

#include <ATen/ATen.h>
#include <ATen/OpaqueTensorImpl.h>

namespace rora::ops::detail {
namespace {

using PackedTensor = at::OpaqueTensorImpl<PrepackedMatrix>;

/// Of a panel's columns: the last panel has whole registers of them.
constexpr int64_t kColumnsOfRegister = 16;

} // namespace

bool can_prepack(const at::Tensor& matrix) {
  return matrix.dim() == 2 && matrix.device().is_cpu() &&
      (matrix.scalar_type() == at::kFloat || matrix.scalar_type() == at::kBFloat16) && matrix.size(0) > 0 &&
      matrix.size(0) % 2 == 0 && matrix.size(1) > 0 && (matrix.stride(0) == 1 || matrix.stride(1) == 1) &&
      kernels::leads_products(kernel_type(matrix));
}

at::Tensor prepack_matrix(const at::Tensor& matrix) {
  TORCH_CHECK_VALUE(
      can_prepack(matrix), "a matrix ", matrix.sizes(), " of ", matrix.scalar_type(), " is not packed here");
  kernels::PackParameters p;
  p.type = kernel_type(matrix);
  p.depth = matrix.size(0);
  p.columns = matrix.size(1);
  p.matrix.transposed = matrix.stride(1) != 1;
  p.matrix.rows = kernel_rows(p.matrix.transposed ? matrix.t() : matrix);
  p.matrix.type = p.type;
  const int64_t columns = (p.columns + kColumnsOfRegister - 1) / kColumnsOfRegister * kColumnsOfRegister;
  at::Tensor panels = at::empty({columns * p.depth}, matrix.options());
  p.packed = panels.mutable_data_ptr();
  const int64_t width = kernels::kernels().panel_columns(p.type, p.columns);
  launch_on_cpu(&kernels::Kernels::pack_panels, p, (p.columns + width - 1) / width, width * p.depth);
  return at::detail::make_tensor<PackedTensor>(
      c10::DispatchKeySet(c10::DispatchKey::CPU), matrix.dtype(), matrix.device(),
      PrepackedMatrix{matrix, std::move(panels)}, matrix.sizes());
}

const PrepackedMatrix* prepacked_matrix(const at::Tensor& x) {
  // Ordinary tensors, of which there are many more, have a storage.
  auto* packed = x.has_storage() ? nullptr : dynamic_cast<PackedTensor*>(x.unsafeGetTensorImpl());
  return packed == nullptr ? nullptr : &packed->unsafe_opaque_handle();
}

} // namespace rora::ops::detail
