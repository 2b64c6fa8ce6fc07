#include "kernels/support.h"

#include <kernels/dora_norm.h>

namespace rora::testing {
namespace {

using kernels::DoRANormParameters;

class DoRANormKernel : public ::testing::TestWithParam<at::ScalarType> {};

DoRANormParameters parameters_of(
    const at::Tensor& weight_norm_squared, const at::Tensor& product, const at::Tensor& b, const at::Tensor& gram,
    double scale, const at::Tensor& norm) {
  DoRANormParameters p;
  p.type = kernel_type(b);
  p.rank = b.size(1);
  p.scale = scale;
  p.weight_norm_squared = weight_norm_squared.data_ptr<float>();
  p.product = product.data_ptr<float>();
  p.product_stride[0] = product.stride(0);
  p.product_stride[1] = product.stride(1);
  p.b = rows_of(b);
  p.gram = gram.data_ptr<float>();
  p.norm = norm.data_ptr<float>();
  return p;
}

void run(const DoRANormParameters& p, const at::Tensor& norm) {
  if (p.type == kernels::Type::kFloat) {
    run_kernel(kernels::cuda::DoRANorm<float>(p, norm.size(0)), {norm});
  } else {
    run_kernel(kernels::cuda::DoRANorm<kernels::cuda::BFloat16>(p, norm.size(0)), {norm});
  }
}

TEST_P(DoRANormKernel, IsTheNormOfTheWholeWeight) {
  at::manual_seed(7);
  constexpr int64_t kIn = 24;
  constexpr double kScale = 1.5;
  for (const int64_t out : {1, 16, 37}) {
    for (const int64_t rank : {0, 1, 8, 33, 200}) {
      const at::Tensor weight = at::randn({out, kIn}), a = at::randn({rank, kIn}) * 0.3;
      const at::Tensor b = at::randn({out, rank + 2}).mul_(0.3).to(GetParam()).narrow(1, 0, rank);
      const at::Tensor expected =
          (weight.to(at::kDouble) + kScale * b.to(at::kDouble).mm(a.to(at::kDouble))).square().sum(1).sqrt();
      const at::Tensor product = a.mm(weight.t()).t(), gram = a.mm(a.t()), squared = weight.square().sum(1);
      const at::Tensor norm = at::zeros({out}), of_dense = at::zeros({out});
      run(parameters_of(squared, product, b, gram, kScale, norm), norm);
      EXPECT_LT(error(norm, expected), 1e-5) << out << " rows of rank " << rank;
      run(parameters_of(squared, product.contiguous(), b, gram, kScale, of_dense), of_dense);
      EXPECT_TRUE(at::equal(of_dense, norm));
    }
  }
}

/// W = −s·B·A, whose expansion may come out a little below 0.
TEST_P(DoRANormKernel, IsZeroRatherThanNoNumber) {
  const at::Tensor b = at::ones({3, 1}, GetParam()), a = at::ones({1, 2}), norm = at::full({3}, 7.0f);
  const at::Tensor squared = at::full({3}, 1.99f), product = at::full({3, 1}, -2.0f);
  run(parameters_of(squared, product, b, a.mm(a.t()), 1.0, norm), norm);
  EXPECT_TRUE(at::equal(norm, at::zeros({3})));
}

INSTANTIATE_TEST_SUITE_P(, DoRANormKernel, ::testing::Values(at::kFloat, at::kBFloat16), [](const auto& info) {
  return c10::toString(info.param);
});

} // namespace
} // namespace rora::testing
