#include "kernels/support.h"

#include <kernels/swiglu.h>
#include <ops/cpu/kernels.h>

namespace rora::testing {
namespace {

using kernels::SwiGLUParameters;

class SwiGLUKernel : public ::testing::TestWithParam<at::ScalarType> {};

/// `[rows, size]`, its rows `size` + `apart` elements apart.
at::Tensor rows_apart(int64_t rows, int64_t size, int64_t apart, at::ScalarType dtype) {
  return at::randn({rows, size + apart}).mul_(3).to(dtype).narrow(1, 0, size);
}

template <class T>
void expect_the_cpus(int64_t rows, int64_t size, int64_t apart, at::ScalarType dtype) {
  const at::Tensor gate = rows_apart(rows, size, apart, dtype), up = rows_apart(rows, size, apart, dtype);
  const at::Tensor dy = rows_apart(rows, size, 0, dtype);
  const at::Tensor y = at::zeros({rows, size}, dtype), dgate = at::zeros_like(y), dup = at::zeros_like(y);
  SwiGLUParameters p;
  p.type = kernel_type(gate);
  p.size = size;
  p.gate = rows_of(gate);
  p.up = rows_of(up);
  p.y = rows_of(y);
  p.dy = rows_of(dy);
  p.dgate = rows_of(dgate);
  p.dup = rows_of(dup);
  kernels::kernels().swiglu(p, 0, rows);
  kernels::kernels().swiglu_backward(p, 0, rows);
  const at::Tensor expected_y = y.clone(), expected_dgate = dgate.clone(), expected_dup = dup.clone();
  y.fill_(7);
  dgate.fill_(7);
  dup.fill_(7);
  run_kernel(kernels::cuda::SwiGLU<T>(p, rows), {y});
  run_kernel(kernels::cuda::SwiGLUBackward<T>(p, rows), {dgate, dup});
  EXPECT_LT(error(y, expected_y), tolerance(dtype)) << rows << " rows of " << size;
  EXPECT_LT(error(dgate, expected_dgate), tolerance(dtype)) << rows << " rows of " << size;
  EXPECT_LT(error(dup, expected_dup), tolerance(dtype)) << rows << " rows of " << size;
}

TEST_P(SwiGLUKernel, IsTheCpusAtAnySize) {
  const auto dtype = GetParam();
  at::manual_seed(1);
  for (const int64_t rows : {1, 3}) {
    for (const int64_t size : {1, 5, 8, 100, 1536, 4104}) { // some of them no whole packets
      for (const int64_t apart : {0, 8, 3}) {
        dtype == at::kFloat ? expect_the_cpus<float>(rows, size, apart, dtype)
                            : expect_the_cpus<kernels::cuda::BFloat16>(rows, size, apart, dtype);
      }
    }
  }
}

TEST(SwiGLUGrid, HasNoBlocksForNoRows) {
  SwiGLUParameters p;
  p.size = 64;
  EXPECT_EQ(kernels::cuda::SwiGLU<float>(p, 0).geometry().blocks_x, 0);
  p.size = 0;
  EXPECT_EQ(kernels::cuda::SwiGLUBackward<float>(p, 5).geometry().blocks_x, 0);
}

TEST(SwiGLUGrid, FillsAGPUWithOneRowOrMany) {
  SwiGLUParameters p;
  p.size = 14336;
  p.gate.stride = p.up.stride = p.y.stride = p.size;
  EXPECT_EQ(kernels::cuda::SwiGLU<kernels::cuda::BFloat16>(p, 1).geometry().blocks_x, 7);
  EXPECT_EQ(kernels::cuda::SwiGLU<kernels::cuda::BFloat16>(p, 8192).geometry().blocks_x, 8192 * 7);
}

/// Gates that are so great, or so small, that e^gate is not finite.
TEST(SwiGLUNumbers, SaturateAtGreatGates) {
  const at::Tensor gate = at::tensor({-1000.0f, -88.5f, -60.0f, 0.0f, 60.0f, 88.5f, 1000.0f, 3e38f}).view({1, 8});
  const at::Tensor up = at::ones({1, 8}), y = at::zeros({1, 8});
  SwiGLUParameters p;
  p.type = kernels::Type::kFloat;
  p.size = 8;
  p.gate = rows_of(gate);
  p.up = rows_of(up);
  p.y = rows_of(y);
  run_kernel(kernels::cuda::SwiGLU<float>(p, 1), {y});
  EXPECT_TRUE(at::allclose(y, at::silu(gate), 1e-6, 1e-30)) << y;
}

INSTANTIATE_TEST_SUITE_P(, SwiGLUKernel, ::testing::Values(at::kFloat, at::kBFloat16), [](const auto& info) {
  return c10::toString(info.param);
});

} // namespace
} // namespace rora::testing
