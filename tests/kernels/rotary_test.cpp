#include "kernels/support.h"

#include <kernels/rotary.h>
#include <ops/cpu/kernels.h>

namespace rora::testing {
namespace {

using kernels::RotaryParameters;

class RotaryKernel : public ::testing::TestWithParam<at::ScalarType> {};

RotaryParameters parameters_of(const at::Tensor& x, const at::Tensor& y, const at::Tensor& cos, const at::Tensor& sin) {
  RotaryParameters p;
  p.type = kernel_type(x);
  p.heads = x.size(1);
  p.seq = x.size(2);
  p.head_dim = x.size(3);
  p.x = x.data_ptr();
  p.y = y.data_ptr();
  for (int i = 0; i < 3; ++i) {
    p.x_stride[i] = x.stride(i);
    p.y_stride[i] = y.stride(i);
  }
  p.cos = cos.data_ptr();
  p.sin = sin.data_ptr();
  p.table_batch_stride = cos.size(0) == 1 ? 0 : cos.stride(0);
  return p;
}

void run(const RotaryParameters& p, int64_t items, const at::Tensor& y) {
  if (p.type == kernels::Type::kFloat) {
    run_kernel(kernels::cuda::Rotary<float>(p, items), {y});
  } else {
    run_kernel(kernels::cuda::Rotary<kernels::cuda::BFloat16>(p, items), {y});
  }
}

/// x `[batch, heads, seq, head_dim]` as a projection leaves it, within rows of `apart` more elements.
at::Tensor heads_of_projection(
    int64_t batch, int64_t heads, int64_t seq, int64_t head_dim, int64_t apart, at::ScalarType dtype) {
  const at::Tensor rows = at::randn({batch, seq, heads * head_dim + apart}).to(dtype);
  return rows.narrow(2, 0, heads * head_dim).view({batch, seq, heads, head_dim}).transpose(1, 2);
}

void expect_the_cpus(const at::Tensor& x, int64_t tables, bool inverse) {
  const int64_t seq = x.size(2), head_dim = x.size(3), items = x.size(0) * seq;
  const at::Tensor cos = at::randn({tables, seq, head_dim}).to(x.scalar_type()), sin = at::randn_like(cos);
  const at::Tensor y = at::empty(x.sizes(), x.options());
  RotaryParameters p = parameters_of(x, y, cos, sin);
  p.inverse = inverse;
  kernels::kernels().rotary(p, 0, items);
  const at::Tensor expected = y.clone();
  y.fill_(7);
  run(p, items, y);
  EXPECT_LT(error(y, expected), tolerance(x.scalar_type())) << x.sizes();
  // In place.
  const at::Tensor turned = x.clone(at::MemoryFormat::Preserve);
  RotaryParameters in_place = parameters_of(turned, turned, cos, sin);
  in_place.inverse = inverse;
  run(in_place, items, turned);
  EXPECT_TRUE(at::equal(turned, y)) << x.sizes();
}

TEST_P(RotaryKernel, IsTheCpusForAnyShape) {
  at::manual_seed(2);
  for (const int64_t head_dim : {2, 6, 16, 64, 128}) { // some halves are no whole packets
    for (const int64_t heads : {1, 4, 9}) {
      expect_the_cpus(at::randn({2, heads, 5, head_dim}).to(GetParam()), 1, false);
      expect_the_cpus(heads_of_projection(2, heads, 5, head_dim, 0, GetParam()), 2, true);
      expect_the_cpus(heads_of_projection(2, heads, 5, head_dim, 8, GetParam()), 1, true);
      expect_the_cpus(heads_of_projection(2, heads, 5, head_dim, 3, GetParam()), 2, false);
    }
  }
}

TEST_P(RotaryKernel, TurnsBackByItsInverse) {
  at::manual_seed(3);
  const at::Tensor x = heads_of_projection(1, 6, 7, 32, 0, GetParam()), y = at::empty_like(x), back = at::empty_like(x);
  const at::Tensor angles = at::rand({1, 7, 16}).repeat({1, 1, 2});
  const at::Tensor cos = angles.cos().to(GetParam()), sin = angles.sin().to(GetParam());
  run(parameters_of(x, y, cos, sin), 7, y);
  RotaryParameters p = parameters_of(y, back, cos, sin);
  p.inverse = true;
  run(p, 7, back);
  EXPECT_LT(error(back, x), 3 * tolerance(GetParam()));
}

TEST(RotaryGrid, HasNoBlocksForNoTokens) {
  RotaryParameters p;
  p.heads = 4;
  p.head_dim = 64;
  EXPECT_EQ(kernels::cuda::Rotary<float>(p, 0).geometry().blocks_x, 0);
}

INSTANTIATE_TEST_SUITE_P(, RotaryKernel, ::testing::Values(at::kFloat, at::kBFloat16), [](const auto& info) {
  return c10::toString(info.param);
});

} // namespace
} // namespace rora::testing
