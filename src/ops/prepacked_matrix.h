#pragma once

#include <ATen/core/Tensor.h>

namespace rora::ops::detail {

/// A right side `[depth, columns]` of `sum_of_products`, laid out once as the CPU's kernel reads it. The tensor is
/// opaque: it has sizes and a dtype but no elements, and `sum_of_products` alone takes it.
struct PrepackedMatrix {
  at::Tensor matrix; ///< as it was, for products that the kernel does not take
  at::Tensor panels;
};

/// Whether the kernel reads packed matrices of these sizes and dtype.
bool can_prepack(const at::Tensor& matrix);

/// Packs `matrix`, which must not change afterwards.
at::Tensor prepack_matrix(const at::Tensor& matrix);

/// Null for an ordinary tensor.
const PrepackedMatrix* prepacked_matrix(const at::Tensor& x);

} // namespace rora::ops::detail
