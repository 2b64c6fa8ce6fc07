#include "kernels/support.h"

#include <kernels/rms_norm.h>
#include <ops/cpu/kernels.h>

namespace rora::testing {
namespace {

using kernels::RMSNormParameters;

class RMSNormKernel : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(RMSNormKernel, IsTheCpusForwardAndBackward) {
  const auto dtype = GetParam();
  at::manual_seed(1);
  for (const int64_t rows : {1, 3}) {
    for (const int64_t size : {5, 8, 100, 576, 2056, 4099}) { // some of them no whole packets
      const at::Tensor x = at::randn({rows, size + 8}).to(dtype).narrow(1, 0, size), weight = at::rand({size}).to(dtype) + 0.5;
      const at::Tensor dy = at::randn({rows, size}).to(dtype);
      at::Tensor y = at::zeros({rows, size}, dtype), dx = at::zeros({rows, size}, dtype), rstd = at::zeros({rows});
      RMSNormParameters p;
      p.type = kernel_type(x);
      p.size = size;
      p.eps = 1e-5;
      p.x = rows_of(x);
      p.weight = weight.data_ptr();
      p.y = rows_of(y);
      p.rstd = rstd.data_ptr();
      p.dy = rows_of(dy);
      p.dx = rows_of(dx);
      kernels::kernels().rms_norm(p, 0, rows);
      kernels::kernels().rms_norm_backward(p, 0, rows);
      const at::Tensor expected_y = y.clone(), expected_dx = dx.clone(), expected_rstd = rstd.clone();
      if (dtype == at::kBFloat16) {
        run_kernel(kernels::cuda::RMSNorm<kernels::cuda::BFloat16>(p, rows), {y, rstd});
        run_kernel(kernels::cuda::RMSNormBackward<kernels::cuda::BFloat16>(p, rows), {dx});
      } else {
        run_kernel(kernels::cuda::RMSNorm<float>(p, rows), {y, rstd});
        run_kernel(kernels::cuda::RMSNormBackward<float>(p, rows), {dx});
      }
      EXPECT_LT(error(rstd, expected_rstd), 1e-6) << size;
      EXPECT_LT(error(y, expected_y), tolerance(dtype)) << size;
      EXPECT_LT(error(dx, expected_dx), 2 * tolerance(dtype)) << size;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, RMSNormKernel, ::testing::Values(at::kFloat, at::kBFloat16), [](const auto& info) {
  return c10::toString(info.param);
});

} // namespace
} // namespace rora::testing
