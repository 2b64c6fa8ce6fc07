#include "kernels/support.h"

#include <rora/core/dropout.h>

#include <kernels/dropout.h>
#include <ops/cpu/kernels.h>

namespace rora::testing {
namespace {

using kernels::DropoutParameters;

class DropoutKernel : public ::testing::TestWithParam<at::ScalarType> {};

constexpr int64_t kBlock = DropoutParameters::kBlock;

DropoutParameters parameters_of(const at::Tensor& x, const at::Tensor& y, double probability, uint64_t seed) {
  DropoutParameters p;
  p.type = kernel_type(x);
  p.count = x.numel();
  p.p = probability;
  p.seed = seed;
  p.x = x.data_ptr();
  p.y = y.data_ptr();
  return p;
}

void run(const DropoutParameters& p, const at::Tensor& y) {
  const int64_t items = (p.count + kBlock - 1) / kBlock;
  if (p.type == kernels::Type::kFloat) {
    run_kernel(kernels::cuda::Dropout<float>(p, items), {y});
  } else {
    run_kernel(kernels::cuda::Dropout<kernels::cuda::BFloat16>(p, items), {y});
  }
}

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  const auto type = a.scalar_type() == at::kFloat ? at::kInt : at::kShort;
  return at::equal(a.contiguous().view(type), b.contiguous().view(type));
}

TEST_P(DropoutKernel, GivesTheCpusBits) {
  at::manual_seed(5);
  for (const int64_t count : {int64_t{1}, int64_t{6}, int64_t{1000}, kBlock, 2 * kBlock + 12, 2 * kBlock + 4093}) {
    for (const int64_t first : {0, 1}) { // an unaligned beginning too
      for (const double probability : {0.05, 0.3, 1.0}) {
        const at::Tensor x = at::randn({first + count}).to(GetParam()).narrow(0, first, count);
        const at::Tensor y = at::full({first + count}, 7, GetParam()).narrow(0, first, count), expected = y.clone();
        const uint64_t seed = 0x9876543210FEDCBAu + static_cast<uint64_t>(count);
        kernels::kernels().dropout(parameters_of(x, expected, probability, seed), 0, (count + kBlock - 1) / kBlock);
        run(parameters_of(x, y, probability, seed), y);
        EXPECT_TRUE(same_bits(y, expected)) << count << " elements, p = " << probability;
      }
    }
  }
}

TEST_P(DropoutKernel, GivesTheBitsOfTheMask) {
  const at::Tensor x = at::ones({37, 23}, GetParam()), y = at::zeros_like(x);
  run(parameters_of(x, y, 0.1, 11), y);
  EXPECT_TRUE(same_bits(y, (ops::Dropout{0.1, 11}.mask(x.sizes(), x.options()))));
}

INSTANTIATE_TEST_SUITE_P(, DropoutKernel, ::testing::Values(at::kFloat, at::kBFloat16), [](const auto& info) {
  return c10::toString(info.param);
});

} // namespace
} // namespace rora::testing
