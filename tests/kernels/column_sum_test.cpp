#include "kernels/support.h"

#include <kernels/column_sum.h>
#include <ops/cpu/kernels.h>

#include <limits>

namespace rora::testing {
namespace {

using kernels::ColumnSumParameters;

class ColumnSumKernel : public ::testing::TestWithParam<at::ScalarType> {};

template <class T>
void expect_the_sums(int64_t rows, int64_t columns, int64_t apart, at::ScalarType dtype) {
  const at::Tensor a = at::randn({rows, columns + apart}).to(dtype).narrow(1, 0, columns);
  const at::Tensor b = at::randn({rows, columns}).to(dtype);
  const at::Tensor sums = at::full({columns}, 7.0f);
  const at::Tensor part_sums =
      at::full({ColumnSumParameters::parts(rows), columns}, std::numeric_limits<float>::quiet_NaN());
  ColumnSumParameters p;
  p.type = kernel_type(a);
  p.rows = rows;
  p.columns = columns;
  p.a = rows_of(a);
  p.b = rows_of(b);
  p.sums = sums.data_ptr();
  p.part_sums = part_sums.numel() > columns ? part_sums.data_ptr<float>() : nullptr;
  run_kernel(kernels::cuda::ColumnSum<T>(p), {sums, part_sums});
  run_kernel(kernels::cuda::ColumnSumOfParts(p), {sums});
  const at::Tensor products = a.to(at::kDouble) * b.to(at::kDouble);
  const at::Tensor bound = products.abs().sum(0) * 1e-6; // of sums in float
  EXPECT_TRUE(((sums - products.sum(0)).abs() <= bound).all().item<bool>()) << rows << " rows of " << columns;

  const at::Tensor scale = at::randn({columns});
  const at::Tensor expected = (a.to(at::kFloat) * scale).to(dtype);
  const at::Tensor scaled = at::empty({rows, columns + apart}, a.options()).narrow(1, 0, columns);
  p.scale = scale.const_data_ptr<float>();
  p.scaled = rows_of(scaled);
  const at::Tensor sums_again = at::full({columns}, 7.0f);
  p.sums = sums_again.data_ptr();
  run_kernel(kernels::cuda::ColumnSum<T>(p), {sums_again, part_sums, scaled});
  run_kernel(kernels::cuda::ColumnSumOfParts(p), {sums_again});
  EXPECT_TRUE(at::equal(scaled, expected)) << rows << " rows of " << columns;
  EXPECT_TRUE(at::equal(sums_again, sums)) << rows << " rows of " << columns;

  const at::Tensor in_place = a.clone();
  p.a = p.scaled = rows_of(in_place);
  p.b = {};
  p.sums = p.part_sums = nullptr;
  run_kernel(kernels::cuda::ColumnSum<T>(p), {in_place});
  EXPECT_TRUE(at::equal(in_place, expected)) << rows << " rows of " << columns;
  p.scale = nullptr;
  p.a = rows_of(a);
  p.b = rows_of(b);

  const at::Tensor of_cpu = at::empty({columns});
  p.sums = of_cpu.data_ptr();
  kernels::kernels().column_sum(p, 0, (columns + ColumnSumParameters::kColumns - 1) / ColumnSumParameters::kColumns);
  EXPECT_TRUE(((sums - of_cpu).abs() <= 2 * bound).all().item<bool>()) << rows << " rows of " << columns;
}

TEST_P(ColumnSumKernel, IsTheSumAndTheScaledRowsAtAnySize) {
  at::manual_seed(6);
  for (const int64_t rows : {0, 1, 9, 128, 129, 1300}) {
    for (const int64_t columns : {1, 45, 264}) {
      for (const int64_t apart : {0, 8, 3}) {
        GetParam() == at::kFloat ? expect_the_sums<float>(rows, columns, apart, GetParam())
                                 : expect_the_sums<kernels::cuda::BFloat16>(rows, columns, apart, GetParam());
      }
    }
  }
}

TEST(ColumnSumGrid, SplitsManyRowsOverTheGPU) {
  ColumnSumParameters p;
  p.rows = 8192;
  p.columns = 4096;
  p.a.stride = p.b.stride = 4096;
  const auto geometry = kernels::cuda::ColumnSum<kernels::cuda::BFloat16>(p).geometry();
  EXPECT_EQ(geometry.blocks_x, 64);
  EXPECT_EQ(geometry.blocks_x, ColumnSumParameters::parts(8192));
  EXPECT_EQ(geometry.blocks_y, 16);
  EXPECT_EQ(kernels::cuda::ColumnSumOfParts(p).geometry().blocks_x, 128);
  p.rows = 128;
  EXPECT_EQ(kernels::cuda::ColumnSumOfParts(p).geometry().blocks_x, 0);
}

INSTANTIATE_TEST_SUITE_P(, ColumnSumKernel, ::testing::Values(at::kFloat, at::kBFloat16), [](const auto& info) {
  return c10::toString(info.param);
});

} // namespace
} // namespace rora::testing
