#include "kernels/low_rank.h"

#include <kernels/rms_norm.h>
#include <kernels/rms_norm_shrink.h>
#include <ops/cuda/rms_norm_shrink.h>
#include <rora/ops/rms_norm_shrink.h>

#include <optional>
#include <string>

namespace rora::testing {
namespace {

using kernels::RMSNormShrinkParameters;

constexpr double kScale = 0.7;
constexpr int64_t kSharedOfH200 = 227 << 10, kSharedOfA100 = 163 << 10;

struct Shape {
  int64_t rows, size, rank;
  int64_t beside = 0; ///< numbers between the rows of every matrix, whole packets of them
};

template <int Groups>
void run_tiles(const RMSNormShrinkParameters& p, int64_t blocks, const std::vector<at::Tensor>& written) {
  switch (RMSNormShrinkParameters::kernel_rank(p.rank)) {
    case 16:
      return run_kernel(kernels::cuda::RMSNormShrink<16, Groups>(p, blocks), written);
    case 32:
      return run_kernel(kernels::cuda::RMSNormShrink<32, Groups>(p, blocks), written);
    case 48:
      return run_kernel(kernels::cuda::RMSNormShrink<48, Groups>(p, blocks), written);
    default:
      return run_kernel(kernels::cuda::RMSNormShrink<64, Groups>(p, blocks), written);
  }
}

/// Inputs and outputs of one call; outputs are NaNs at first.
struct Call {
  explicit Call(const Shape& shape, bool with_added)
      : x(random(shape.rows, shape)),
        added(random(shape.rows, shape)),
        a(random(shape.rank, shape) / 8),
        weight(at::rand({shape.size}).to(at::kBFloat16) + 0.5),
        sum(empty(shape.rows, shape)),
        y(empty(shape.rows, shape)),
        rstd(at::full({shape.rows}, NAN)),
        shrunk(at::full({shape.rows, shape.rank}, NAN, at::kBFloat16)) {
    p.norm.type = kernels::Type::kBFloat16;
    p.norm.size = shape.size;
    p.norm.eps = 1e-5;
    p.norm.x = rows_of(x);
    p.norm.weight = weight.data_ptr();
    p.norm.y = rows_of(y);
    p.norm.rstd = rstd.data_ptr();
    if (with_added) {
      p.norm.added = rows_of(added);
      p.norm.sum = rows_of(sum);
    }
    p.rows = shape.rows;
    p.rank = shape.rank;
    p.scale = kScale;
    p.a = rows_of(a);
    p.shrunk = rows_of(shrunk);
  }
  static at::Tensor random(int64_t rows, const Shape& shape) {
    return at::randn({rows, shape.size + shape.beside}).to(at::kBFloat16).narrow(1, 0, shape.size);
  }
  static at::Tensor empty(int64_t rows, const Shape& shape) {
    return at::full({rows, shape.size + shape.beside}, NAN, at::kBFloat16).narrow(1, 0, shape.size);
  }
  void run(int64_t groups, int64_t blocks) {
    ASSERT_TRUE(p.fits());
    const std::vector<at::Tensor> written{sum, y, rstd, shrunk};
    groups == 2 ? run_tiles<2>(p, blocks, written) : run_tiles<3>(p, blocks, written);
  }

  at::Tensor x, added, a, weight, sum, y, rstd, shrunk;
  RMSNormShrinkParameters p;
};

TEST(RMSNormShrinkKernel, IsTheNormAndTheShrinkOfWhatTheNormWrites) {
  at::manual_seed(1);
  for (const Shape& shape :
       {Shape{1, 8, 1},
        {5, 264, 16, 8},
        {50, 576, 13},
        {130, 40, 48},
        {33, 1032, 33, 16},
        {49, 256, 64},
        {24, 520, 24}}) {
    for (const bool with_added : {false, true}) {
      for (const int64_t groups : {2, 3}) {
        const std::string what = std::to_string(shape.rows) + "x" + std::to_string(shape.size) + ", rank " +
            std::to_string(shape.rank) + (with_added ? ", added, " : ", ") + std::to_string(groups) + " groups";
        Call one(shape, with_added);
        one.run(groups, 2); // most blocks have several tiles
        const at::Tensor h = with_added ? one.x + one.added : one.x;
        if (with_added) {
          EXPECT_TRUE(at::equal(one.sum, h)) << what;
        } else {
          EXPECT_TRUE(one.sum.isnan().all().item<bool>()) << what;
        }
        const at::Tensor rstd = (h.to(at::kDouble).square().mean(-1) + 1e-5).rsqrt();
        EXPECT_LT(error(one.rstd, rstd), 1e-6) << what;
        // With the kernel's own rstd, every number is rounded as the norm by itself rounds it.
        const at::Tensor normed = (h.to(at::kFloat) * one.rstd.unsqueeze(1)).to(at::kBFloat16);
        EXPECT_TRUE(at::equal(one.y, normed * one.weight)) << what;
        const at::Tensor truth = kScale * one.y.to(at::kDouble).mm(one.a.to(at::kDouble).t());
        expect_right(one.shrunk, truth, truth.to(at::kBFloat16), what);
      }
    }
  }
}

TEST(RMSNormShrinkKernel, DoesNotDependOnTheTilesOrTheBlocks) {
  at::manual_seed(2);
  Call one({100, 328, 20}, true);
  one.run(2, 1);
  const at::Tensor y = one.y.clone(), rstd = one.rstd.clone(), shrunk = one.shrunk.clone();
  for (const int64_t groups : {2, 3}) {
    for (const int64_t blocks : {3, 1000}) {
      one.run(groups, blocks);
      EXPECT_TRUE(at::equal(one.y, y) && at::equal(one.rstd, rstd) && at::equal(one.shrunk, shrunk))
          << groups << " groups, " << blocks << " blocks";
    }
  }
}

TEST(RMSNormShrinkKernel, WritesYAsTheNormByItself) {
  at::manual_seed(3);
  Call one({40, 576, 16}, true);
  one.run(3, 2);
  const at::Tensor y = one.y.clone(), rstd = one.rstd.clone();
  kernels::cuda::host::run(kernels::cuda::RMSNorm<kernels::cuda::BFloat16>(one.p.norm, one.p.rows));
  EXPECT_LT(error(rstd, one.rstd), 1e-6);
  EXPECT_LT(error(y, one.y), tolerance(at::kBFloat16));
}

TEST(RMSNormShrinkKernel, TakesNoRows) {
  Call one({0, 64, 8}, true);
  one.run(2, 132);
  EXPECT_EQ((kernels::cuda::RMSNormShrink<16, 2>(one.p, 132).geometry().blocks_x), 0);
}

TEST(RMSNormShrinkKernel, TakesWholePacketsOfBFloat16Alone) {
  const auto fits = [](const auto& change) {
    Call one({20, 64, 8}, true);
    change(one.p);
    return one.p.fits();
  };
  const auto shifted = [](const kernels::Rows& rows) {
    return kernels::Rows{static_cast<char*>(rows.data) + 2, rows.stride};
  };
  EXPECT_TRUE(fits([](auto&) {}));
  EXPECT_FALSE(fits([](auto& p) { p.norm.type = kernels::Type::kFloat; }));
  EXPECT_FALSE(fits([](auto& p) { p.norm.size = 63; }));
  EXPECT_FALSE(fits([&](auto& p) { p.norm.x = shifted(p.norm.x); }));
  EXPECT_FALSE(fits([&](auto& p) { p.norm.added = shifted(p.norm.added); }));
  EXPECT_FALSE(fits([&](auto& p) { p.norm.sum.stride += 4; }));
  EXPECT_FALSE(fits([&](auto& p) { p.norm.y.stride += 4; }));
  EXPECT_FALSE(fits([&](auto& p) { p.a.stride += 1; }));
  EXPECT_FALSE(fits([](auto& p) { p.norm.weight = static_cast<const char*>(p.norm.weight) + 2; }));
}

TEST(RMSNormShrinkKernel, IsChosenWhereItReadsLess) {
  const auto groups = RMSNormShrinkParameters::groups_for;
  EXPECT_EQ(groups(8192, 4096, 48, kSharedOfH200), 3);
  EXPECT_EQ(groups(8192, 4096, 64, kSharedOfH200), 3);
  EXPECT_EQ(groups(8192, 4096, 48, kSharedOfA100), 2);
  EXPECT_EQ(groups(8192, 4096, 49, kSharedOfA100), 0); // A would be read too often
  EXPECT_EQ(groups(8192, 5120, 32, kSharedOfH200), 2);
  EXPECT_EQ(groups(8192, 8192, 16, kSharedOfH200), 0); // a tile does not fit
  EXPECT_EQ(groups(8192, 4096, 65, kSharedOfH200), 0);
  EXPECT_EQ(groups(8192, 4096, 0, kSharedOfH200), 0);
  EXPECT_EQ(groups(8192, 0, 16, kSharedOfH200), 0);
  EXPECT_EQ(groups(3144, 4096, 16, kSharedOfH200), 2); // 131 tiles of three groups
  EXPECT_EQ(groups(3145, 4096, 16, kSharedOfH200), 3);
  EXPECT_EQ(groups(2096, 4096, 16, kSharedOfH200), 0); // 131 tiles of two
  EXPECT_EQ(groups(2097, 4096, 16, kSharedOfH200), 2);
  for (int64_t size = 8; size < 8192; size += 248) {
    for (const int64_t rank : {1, 16, 17, 48, 64}) {
      const int64_t found = groups(8192, size, rank, kSharedOfA100);
      EXPECT_LE(RMSNormShrinkParameters::shared_bytes(size, rank, found), kSharedOfA100);
    }
  }
}

/// The rows, what half the warps hand over, and each warp's squares do not overlap.
TEST(RMSNormShrinkKernel, AsksForTheSharedMemoryThatItUses) {
  Call one({20, 4096, 48}, false);
  const kernels::cuda::RMSNormShrink<48, 3> kernel(one.p, 132);
  constexpr int64_t kRows = 24 * 4096 * 2, kSums = 4 * 32 * (48 * 24 / 32) * 4, kSquares = 8 * 24 * 4;
  EXPECT_EQ(kernel.geometry().shared_bytes, kRows + kSums + kSquares);
}

int launches = 0;

TEST(RMSNormShrinkOnAGpu, IsTheReferenceByTheKernelWhereThatFits) {
  at::manual_seed(4);
  const ops::detail::RMSNormShrinkKernel on_the_host{
      [] { return kSharedOfH200; },
      [](const RMSNormShrinkParameters& p, int64_t groups) {
        ++launches;
        ASSERT_EQ(groups, 2);
        kernels::cuda::host::run(kernels::cuda::RMSNormShrink<16, 2>(p, 132));
      }};
  struct Case {
    at::ScalarType dtype, of_a;
    int64_t tokens, size, beside;
    int launches;
  };
  constexpr int64_t kTokens = 2100;
  for (const Case& c :
       {Case{at::kBFloat16, at::kFloat, kTokens, 16, 0, 1},
        {at::kBFloat16, at::kBFloat16, kTokens, 16, 8, 1},
        {at::kBFloat16, at::kFloat, kTokens, 16, 1, 0}, // rows that are no whole packets
        {at::kBFloat16, at::kFloat, kTokens, 18, 0, 0},
        {at::kBFloat16, at::kFloat, 100, 16, 0, 0},
        {at::kBFloat16, at::kFloat, 0, 16, 0, 0},
        {at::kFloat, at::kFloat, kTokens, 16, 0, 0}}) {
    const at::Tensor x = at::randn({c.tokens, c.size + c.beside}).to(c.dtype).narrow(1, 0, c.size);
    const at::Tensor given = at::randn({c.tokens, c.size}).to(c.dtype);
    const at::Tensor weight = at::rand({c.size}).to(c.dtype), a = at::randn({5, c.size}).to(c.of_a);
    for (const bool with_added : {false, true}) {
      const auto added = with_added ? std::optional<at::Tensor>(given) : std::nullopt;
      launches = 0;
      const auto [sum, y, rstd, shrunk] =
          ops::detail::rms_norm_shrink_forward(on_the_host, x, added, weight, 1e-5, a, kScale);
      const auto [their_sum, their_y, their_rstd, their_shrunk] =
          ops::reference::rms_norm_shrink_forward(x, added, weight, 1e-5, a, kScale);
      EXPECT_EQ(launches, c.launches);
      const bool side_by_side = shrunk.is_alias_of(y) && shrunk.stride(0) == y.stride(0) &&
          shrunk.storage_offset() == y.storage_offset() + c.size;
      EXPECT_EQ(side_by_side, c.launches == 1) << "products of both are one";
      ASSERT_EQ(sum.defined(), with_added);
      EXPECT_TRUE(!with_added || at::equal(sum, their_sum));
      EXPECT_TRUE(at::allclose(y, their_y, 1e-2, 1e-2));
      EXPECT_TRUE(at::allclose(rstd, their_rstd, 1e-5, 1e-5));
      EXPECT_TRUE(at::allclose(shrunk, their_shrunk, 2e-2, 2e-2));
      EXPECT_EQ(shrunk.scalar_type(), their_shrunk.scalar_type());
    }
  }
}

} // namespace
} // namespace rora::testing
