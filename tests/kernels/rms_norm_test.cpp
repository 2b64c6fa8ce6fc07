#include "kernels/support.h"

#include <kernels/rms_norm.h>
#include <ops/cpu/kernels.h>

namespace rora::testing {
namespace {

using kernels::RMSNormParameters;

class RMSNormKernel : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  const at::ScalarType dtype = GetParam();

  static constexpr double kEps = 1e-5;

  /// Rows with `beside` numbers between them.
  at::Tensor random(int64_t rows, int64_t size, int64_t beside = 0) const {
    return at::randn({rows, size + beside}).to(dtype).narrow(1, 0, size);
  }

  static void forward(const RMSNormParameters& p, int64_t rows, const std::vector<at::Tensor>& written) {
    if (p.type == kernels::Type::kBFloat16) {
      run_kernel(kernels::cuda::RMSNorm<kernels::cuda::BFloat16>(p, rows), written);
    } else {
      run_kernel(kernels::cuda::RMSNorm<float>(p, rows), written);
    }
  }
  static void backward(const RMSNormParameters& p, int64_t rows, const std::vector<at::Tensor>& written) {
    if (p.type == kernels::Type::kBFloat16) {
      run_kernel(kernels::cuda::RMSNormBackward<kernels::cuda::BFloat16>(p, rows), written);
    } else {
      run_kernel(kernels::cuda::RMSNormBackward<float>(p, rows), written);
    }
  }
};

TEST_P(RMSNormKernel, IsTheCpusForwardAndBackward) {
  at::manual_seed(1);
  for (const int64_t rows : {1, 3}) {
    for (const int64_t size : {5, 8, 100, 576, 2056, 4099}) { // some of them no whole packets
      const at::Tensor x = random(rows, size, 8), weight = at::rand({size}).to(dtype) + 0.5;
      const at::Tensor dy = random(rows, size);
      at::Tensor y = at::zeros({rows, size}, dtype), dx = at::zeros({rows, size}, dtype), rstd = at::zeros({rows});
      RMSNormParameters p;
      p.type = kernel_type(x);
      p.size = size;
      p.eps = kEps;
      p.x = rows_of(x);
      p.weight = weight.data_ptr();
      p.y = rows_of(y);
      p.rstd = rstd.data_ptr();
      p.dy = rows_of(dy);
      p.dx = rows_of(dx);
      kernels::kernels().rms_norm(p, 0, rows);
      kernels::kernels().rms_norm_backward(p, 0, rows);
      const at::Tensor expected_y = y.clone(), expected_dx = dx.clone(), expected_rstd = rstd.clone();
      forward(p, rows, {y, rstd});
      backward(p, rows, {dx});
      EXPECT_LT(error(rstd, expected_rstd), 1e-6) << size;
      EXPECT_LT(error(y, expected_y), tolerance(dtype)) << size;
      EXPECT_LT(error(dx, expected_dx), 2 * tolerance(dtype)) << size;
    }
  }
}

/// The rows' strides differ, and each in turn keeps all of them from being read by packets.
TEST_P(RMSNormKernel, OfASumIsThatOfTheRoundedSum) {
  at::manual_seed(2);
  for (const int64_t size : {5, 8, 576, 2056}) {
    for (const int odd : {-1, 0, 1, 2}) {
      const int64_t rows = 3;
      const auto beside = [&](int which) { return odd == which ? 3 : 8 * which; };
      const at::Tensor x = random(rows, size, beside(0)), added = random(rows, size, beside(1));
      const at::Tensor weight = at::rand({size}).to(dtype) + 0.5;
      const at::Tensor sum = at::zeros({rows, size + beside(2)}, dtype).narrow(1, 0, size);
      const at::Tensor y = at::zeros({rows, size}, dtype), rstd = at::zeros({rows});
      RMSNormParameters p;
      p.type = kernel_type(x);
      p.size = size;
      p.eps = kEps;
      p.x = rows_of(x);
      p.weight = weight.data_ptr();
      p.y = rows_of(y);
      p.rstd = rstd.data_ptr();
      const at::Tensor expected_sum = x + added;
      p.x = rows_of(expected_sum);
      forward(p, rows, {y, rstd});
      const at::Tensor expected_y = y.clone(), expected_rstd = rstd.clone();
      y.zero_();
      rstd.zero_();
      p.x = rows_of(x);
      p.added = rows_of(added);
      p.sum = rows_of(sum);
      forward(p, rows, {sum, y, rstd});
      EXPECT_TRUE(at::equal(sum, expected_sum)) << size << ", " << odd;
      EXPECT_LT(error(rstd, expected_rstd), 1e-6) << size << ", " << odd;
      EXPECT_LT(error(y, expected_y), tolerance(dtype)) << size << ", " << odd;
    }
  }
}

TEST_P(RMSNormKernel, AddsTheSumsGradientBeforeItRounds) {
  at::manual_seed(3);
  for (const int64_t size : {5, 8, 100, 2056}) {
    for (const int64_t beside : {0, 3, 8}) {
      const int64_t rows = 3;
      const at::Tensor x = random(rows, size, 8), dy = random(rows, size), dsum = random(rows, size, beside);
      const at::Tensor weight = at::rand({size}).to(dtype) + 0.5;
      const at::Tensor dx = at::zeros({rows, size}, dtype);
      const at::Tensor wide = x.to(at::kDouble), rstd = (wide.square().mean(-1) + kEps).rsqrt().to(at::kFloat);
      RMSNormParameters p;
      p.type = kernel_type(x);
      p.size = size;
      p.x = rows_of(x);
      p.weight = weight.data_ptr();
      p.rstd = rstd.data_ptr();
      p.dy = rows_of(dy);
      p.dsum = rows_of(dsum);
      p.dx = rows_of(dx);
      backward(p, rows, {dx});
      const at::Tensor spread = rstd.to(at::kDouble).unsqueeze(1), normed = wide * spread;
      const at::Tensor scaled = dy.to(at::kDouble) * weight.to(at::kDouble);
      const at::Tensor expected =
          (scaled - normed * (scaled * normed).mean(-1, /*keepdim=*/true)) * spread + dsum.to(at::kDouble);
      // Rounded once: by half of a last place of each number itself.
      const at::Tensor allowed = expected.abs() * (dtype == at::kBFloat16 ? 1.0 / 256 : 1e-6) + 1e-5;
      EXPECT_TRUE(((dx.to(at::kDouble) - expected).abs() <= allowed).all().item<bool>()) << size << ", " << beside;
      p.dx = p.dsum; // in place
      backward(p, rows, {dsum});
      EXPECT_TRUE(at::equal(dsum, dx)) << size << ", " << beside;
    }
  }
}

TEST_P(RMSNormKernel, TakesNoRows) {
  RMSNormParameters p;
  p.type = dtype == at::kBFloat16 ? kernels::Type::kBFloat16 : kernels::Type::kFloat;
  p.size = 8;
  forward(p, 0, {});
  backward(p, 0, {});
}

INSTANTIATE_TEST_SUITE_P(, RMSNormKernel, ::testing::Values(at::kFloat, at::kBFloat16), [](const auto& info) {
  return c10::toString(info.param);
});

} // namespace
} // namespace rora::testing
