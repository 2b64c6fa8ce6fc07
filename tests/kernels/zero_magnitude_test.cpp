#include "kernels/support.h"

#include <kernels/zero_magnitude.h>
#include <rora/core/low_rank_products.h>

namespace rora::testing {
namespace {

class ZeroMagnitudeKernel : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(ZeroMagnitudeKernel, FillsInTheGradientsOfZeroMagnitudesAlone) {
  const auto dtype = GetParam();
  at::manual_seed(2);
  for (const auto& [rows, columns, depth, rank] :
       std::vector<std::array<int64_t, 4>>{{1, 1, 1, 1}, {7, 33, 300, 4}, {40, 64, 17, 16}, {0, 5, 8, 2}}) {
    const at::Tensor dy = at::randn({rows, columns + 3}).to(dtype).narrow(1, 0, columns);
    const at::Tensor x = at::randn({rows, depth}).to(dtype), weight = at::randn({columns, depth}).to(dtype);
    const at::Tensor shrunk = at::randn({rows, 2 * rank}).to(dtype).narrow(1, rank, rank);
    const at::Tensor b = at::randn({columns, rank});
    at::Tensor magnitude = at::rand({columns}) + 0.5, norm = at::rand({columns}) + 0.5;
    magnitude.slice(0, 0, columns, 3).zero_();
    magnitude.select(0, 0).fill_(-0.0);
    norm.slice(0, 0, columns, 6).slice(0, 1).zero_();
    at::Tensor gradient = at::randn({columns});
    at::Tensor expected = gradient.to(at::kDouble);
    ops::reference::zero_magnitude_gradient_(
        expected, dy.to(at::kDouble), x.to(at::kDouble), weight.to(at::kDouble), shrunk.to(at::kDouble),
        b.to(at::kDouble), magnitude, norm.to(at::kDouble));
    kernels::ZeroMagnitudeParameters p;
    p.type = kernel_type(x);
    p.rows = rows;
    p.depth = depth;
    p.rank = rank;
    p.dy = rows_of(dy);
    p.x = rows_of(x);
    p.weight = rows_of(weight);
    p.shrunk = rows_of(shrunk);
    p.b = rows_of(b);
    p.magnitude = magnitude.const_data_ptr<float>();
    p.norm = norm.const_data_ptr<float>();
    p.gradient = gradient.mutable_data_ptr<float>();
    if (dtype == at::kBFloat16) {
      run_kernel(kernels::cuda::ZeroMagnitude<kernels::cuda::BFloat16>(p, columns), {gradient});
    } else {
      run_kernel(kernels::cuda::ZeroMagnitude<float>(p, columns), {gradient});
    }
    EXPECT_LT(error(gradient, expected), 2e-6) << columns;
  }
}

INSTANTIATE_TEST_SUITE_P(, ZeroMagnitudeKernel, ::testing::Values(at::kFloat, at::kBFloat16), [](const auto& info) {
  return c10::toString(info.param);
});

} // namespace
} // namespace rora::testing
