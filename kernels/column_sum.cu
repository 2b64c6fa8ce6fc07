#include "column_sum.h"
#include "kernels.h"

#include "launch.cuh"

namespace rora::kernels::cuda {

cudaError_t column_sum(const ColumnSumParameters& p, int64_t, cudaStream_t stream) {
  const cudaError_t error = launch_by_type<ColumnSum>(p, stream);
  return error == cudaSuccess && p.b.data != nullptr ? launch(ColumnSumOfParts(p), stream) : error;
}

} // namespace rora::kernels::cuda
