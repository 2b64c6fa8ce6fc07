#pragma once

#include <ATen/core/Tensor.h>

namespace rora::ops::detail {

/// y⊙scale in y `[rows, columns]`, multiplied in the wide type and rounded once; `scale` `[columns]`. On a GPU in one
/// pass at the speed of its memory, which LibTorch's product of two dtypes does not reach.
void scale_columns_(at::Tensor& y, const at::Tensor& scale);

} // namespace rora::ops::detail
