// What surrounds the K-append product, with the same steps taken on the host in the kernel's place.

#include "support.h"

#include <kernels/device.h>
#include <kernels/gemm_kappend.h>
#include <ops/cuda/kappend_sum.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <limits>
#include <vector>

namespace rora {
namespace {

using kernels::Rows;
using kernels::cuda::BFloat16;
using kernels::cuda::KAppendParameters;
using kernels::cuda::KAppendTile;
using kernels::cuda::kKTile;
using kernels::cuda::KTiles;
using kernels::cuda::KTileSpan;
using ops::detail::SumShape;
using rora::testing::error;
using rora::testing::tolerance;

float element(const Rows& rows, int64_t row, int64_t column) {
  return kernels::cuda::widen(static_cast<const BFloat16*>(rows.data)[row * rows.stride + column]);
}

/// Adds up a step of a pair. What lies beyond the pair's depth counts as 0, as the copies of tiles have it.
void add_step(
    float& sum, const Rows& left, const Rows& right, bool transposed, int64_t depth, int step, int64_t row,
    int64_t column) {
  for (int64_t k = int64_t{step} * kKTile; k < std::min(depth, (int64_t{step} + 1) * kKTile); ++k) {
    sum += element(left, row, k) * (transposed ? element(right, column, k) : element(right, k, column));
  }
}

bool host_kappend(const KAppendParameters& p) {
  EXPECT_TRUE(kernels::cuda::suits_kappend(p));
  const KTiles tiles = KTiles::of(p.depth, p.rank);
  for (int64_t row = 0; row < p.rows; ++row) {
    for (int64_t column = 0; column < p.columns; ++column) {
      float sum = 0.0f;
      for (int step = 0; step < tiles.count(); ++step) {
        const KTileSpan deep = tiles.deep_part(step, 1), thin = tiles.thin_part(step, 1);
        if (deep.count > 0) {
          add_step(sum, p.x, p.w, p.transposed, p.depth, deep.begin, row, column);
        }
        if (thin.count > 0) {
          add_step(sum, p.s, p.b, p.transposed, p.rank, thin.begin, row, column);
        }
      }
      const float before = p.beta == 0.0f ? 0.0f : p.beta * element(p.c, row, column);
      static_cast<BFloat16*>(p.y.data)[row * p.y.stride + column] =
          kernels::cuda::rounded<BFloat16>(p.alpha * sum + before);
    }
  }
  return true;
}

TEST(KTiles, CountWholeStepsOfEachPair) {
  for (const auto& [depth, rank, deep, thin] :
       {std::array<int64_t, 4>{64, 8, 1, 1}, {65, 64, 2, 1}, {4096, 65, 64, 2}, {1, 128, 1, 2}, {63, 129, 1, 3}}) {
    const KTiles tiles = KTiles::of(depth, rank);
    EXPECT_EQ(tiles.deep, deep) << depth;
    EXPECT_EQ(tiles.thin, thin) << rank;
    EXPECT_EQ(tiles.count(), deep + thin);
  }
}

TEST(KTiles, AreEachTakenOnceTheDeepPairsFirst) {
  for (int deep = 1; deep < 6; ++deep) {
    for (int thin = 1; thin < 4; ++thin) {
      const KTiles tiles{deep, thin};
      for (int begin = 0; begin < tiles.count(); ++begin) {
        for (int count = 0; begin + count <= tiles.count(); ++count) {
          // The steps that a producer takes, numbered as the kernel around it does.
          std::vector<int> taken, expected;
          const KTileSpan first = tiles.deep_part(begin, count), second = tiles.thin_part(begin, count);
          for (int i = 0; i < first.count; ++i) {
            EXPECT_LT(first.begin + i, deep);
            taken.push_back(first.begin + i);
          }
          for (int i = 0; i < second.count; ++i) {
            EXPECT_LT(second.begin + i, thin);
            taken.push_back(deep + second.begin + i);
          }
          for (int i = 0; i < count; ++i) {
            expected.push_back(begin + i);
          }
          EXPECT_EQ(taken, expected) << deep << " and " << thin << " from " << begin;
        }
      }
    }
  }
}

KAppendParameters suitable(bool transposed) {
  alignas(64) static char room[64];
  KAppendParameters p;
  p.rows = 200;
  p.columns = 48;
  p.depth = 100;
  p.rank = 12;
  p.transposed = transposed;
  p.x = {room, 104};
  p.w = {room, transposed ? 104 : 48};
  p.s = {room, 16};
  p.b = {room, transposed ? 16 : 48};
  p.y = {room, 48};
  return p;
}

TEST(KAppend, SuitsMatricesWhoseRowsTilesCanBeCopiedFrom) {
  for (const bool transposed : {false, true}) {
    EXPECT_TRUE(suits_kappend(suitable(transposed)));
    const auto suits_with = [&](auto change) {
      KAppendParameters p = suitable(transposed);
      change(p);
      return suits_kappend(p);
    };
    for (Rows KAppendParameters::*matrix :
         {&KAppendParameters::x, &KAppendParameters::w, &KAppendParameters::s, &KAppendParameters::b,
          &KAppendParameters::y}) {
      EXPECT_TRUE(suits_with([&](auto& p) { (p.*matrix).stride += 8; }));
      EXPECT_FALSE(suits_with([&](auto& p) { (p.*matrix).stride += 4; })) << "rows at multiples of 8 bytes";
      EXPECT_FALSE(suits_with([&](auto& p) { (p.*matrix).stride -= 8; })) << "overlapping rows";
      EXPECT_FALSE(suits_with([&](auto& p) { (p.*matrix).data = static_cast<char*>((p.*matrix).data) + 8; }));
      EXPECT_FALSE(suits_with([&](auto& p) { (p.*matrix).data = nullptr; }));
      EXPECT_FALSE(suits_with([&](auto& p) { (p.*matrix).stride = int64_t{1} << 39; }));
    }
    for (int64_t KAppendParameters::*size :
         {&KAppendParameters::rows, &KAppendParameters::columns, &KAppendParameters::depth, &KAppendParameters::rank}) {
      EXPECT_FALSE(suits_with([&](auto& p) { p.*size = 0; }));
      EXPECT_FALSE(suits_with([&](auto& p) { p.*size = int64_t{1} << 31; }));
    }
    EXPECT_FALSE(suits_with([](auto& p) { p.columns = 44; })) << "rows of the result that end within a copy";
    EXPECT_FALSE(suits_with([](auto& p) { p.beta = 1.0f; })) << "c is read and lacks";
    EXPECT_TRUE(suits_with([](auto& p) {
      p.beta = 1.0f;
      p.c = p.y;
    }));
  }
  EXPECT_EQ(kernels::cuda::padded_to_tile_copy(1), 8);
  EXPECT_EQ(kernels::cuda::padded_to_tile_copy(8), 8);
  EXPECT_EQ(kernels::cuda::padded_to_tile_copy(12), 16);
}

TEST(KAppend, TakesTilesInBandsThatAddFewTiles) {
  using kernels::cuda::band_width;
  EXPECT_EQ(band_width(8192, 4096, KAppendTile::k128x256), 8);
  EXPECT_EQ(band_width(8192, 14336, KAppendTile::k128x256), 8);
  EXPECT_EQ(band_width(8192, 1024, KAppendTile::k128x256), 4) << "four tiles across";
  EXPECT_EQ(band_width(8192, 1024, KAppendTile::k128x128), 8);
  EXPECT_EQ(band_width(8192, 10 * 256, KAppendTile::k128x256), 2) << "ten across would become twelve";
  EXPECT_EQ(band_width(8192, 11 * 256, KAppendTile::k128x256), 1);
  EXPECT_EQ(band_width(128, 4096, KAppendTile::k128x128), 1);
  EXPECT_EQ(band_width(8192 - 100, 4096 - 8, KAppendTile::k128x128), 8);
  EXPECT_EQ(band_width(127 * 256, 4096, KAppendTile::k128x128), 8) << "two more of 254 are few";
}

/// `x` within rows that lie further apart, and on a boundary.
at::Tensor apart(const at::Tensor& x) {
  const int64_t stride = kernels::cuda::padded_to_tile_copy(x.size(1)) + 16;
  return at::full({x.size(0), stride}, std::numeric_limits<float>::quiet_NaN(), x.options())
      .narrow(1, 8, x.size(1))
      .copy_(x);
}

at::Tensor bf16(at::IntArrayRef sizes) {
  return at::randn(sizes).to(at::kBFloat16);
}

/// Every layout of a thin matrix: by rows, by columns, apart, off any boundary, and in fp32.
std::vector<at::Tensor> layouts(const at::Tensor& x) {
  const at::Tensor off = at::empty({x.numel() + 1}, x.options()).narrow(0, 1, x.numel()).view(x.sizes());
  return {x, x.t().contiguous().t(), apart(x), off.copy_(x), x.to(at::kFloat), x.to(at::kFloat).t().contiguous().t()};
}

TEST(SumByKAppend, IsTheSumRoundedOnce) {
  at::manual_seed(1);
  const int64_t rows = 130, columns = 24;
  for (const auto& [depth, rank] : {std::array<int64_t, 2>{64, 8}, {72, 1}, {136, 12}, {200, 65}}) {
    const at::Tensor x = bf16({rows, depth}), w = bf16({depth, columns});
    const at::Tensor s = bf16({rows, rank}), b = bf16({rank, columns});
    const at::Tensor sum = x.to(at::kDouble).mm(w.to(at::kDouble)) + s.to(at::kDouble).mm(b.to(at::kDouble));
    const auto some_s = layouts(s), some_b = layouts(b);
    for (const at::Tensor& right : {w, w.t().contiguous().t(), apart(w), apart(w.t()).t()}) {
      for (size_t i = 0; i < some_b.size(); ++i) {
        const at::Tensor left = some_s[std::min<size_t>(i, 3)];
        for (const bool accumulate : {false, true}) {
          const at::Tensor start = bf16({rows, columns});
          at::Tensor y = i % 2 == 0 ? start.clone() : apart(start);
          if (!accumulate) {
            y.fill_(std::numeric_limits<float>::quiet_NaN());
          }
          const auto version = y._version();
          ASSERT_TRUE(ops::detail::sum_by_kappend(
              y, {i % 2 == 0 ? x : apart(x), left}, {right, some_b[i]}, 0.5, accumulate, KAppendTile::k128x256,
              [](const KAppendParameters& p) { return p.tile == KAppendTile::k128x256 && host_kappend(p); }));
          EXPECT_GT(y._version(), version);
          EXPECT_LT(
              error(y, 0.5 * sum + (accumulate ? start.to(at::kDouble) : at::zeros_like(sum))),
              tolerance(at::kBFloat16))
              << depth << " " << rank << " " << i << right.strides();
        }
      }
    }
  }
}

TEST(SumByKAppend, CopiesNoMatrixThatTilesCanBeCopiedFrom) {
  const at::Tensor x = bf16({128, 64}), s = bf16({128, 16}), w = bf16({24, 64}), b = bf16({24, 16}), a = bf16({16, 24});
  const auto expect_in_place = [&](const at::Tensor& right, const at::Tensor& thin, const at::Tensor& as_rows) {
    at::Tensor y = bf16({128, 24});
    const auto seen = [&](const KAppendParameters& p) {
      EXPECT_EQ(p.s.data, s.data_ptr());
      EXPECT_EQ(p.b.data, as_rows.data_ptr());
      EXPECT_EQ(p.b.stride, as_rows.stride(0));
      EXPECT_EQ(p.transposed, right.stride(0) == 1);
      return true;
    };
    EXPECT_TRUE(ops::detail::sum_by_kappend(y, {x, s}, {right, thin}, 1.0, false, KAppendTile::k128x128, seen));
  };
  expect_in_place(w.t(), b.t(), b);
  expect_in_place(w.t().contiguous(), a, a);
}

TEST(SumByKAppend, LeavesTheRestToOthers) {
  const auto refuses = [](at::Tensor y, std::vector<at::Tensor> a, std::vector<at::Tensor> b) {
    return !ops::detail::sum_by_kappend(y, a, b, 1.0, false, KAppendTile::k128x128, [](const KAppendParameters&) {
      ADD_FAILURE() << "the kernel was asked for";
      return true;
    });
  };
  const at::Tensor x = bf16({128, 64}), s = bf16({128, 8}), w = bf16({64, 24}), b = bf16({8, 24}), y = bf16({128, 24});
  EXPECT_TRUE(refuses(y, {x}, {w}));
  EXPECT_TRUE(refuses(y, {x, s, s}, {w, b, b}));
  EXPECT_TRUE(refuses(y.to(at::kFloat), {x, s}, {w, b})) << "a result in fp32";
  EXPECT_TRUE(refuses(y.to(at::kFloat), {x.to(at::kFloat), s.to(at::kFloat)}, {w, b}));
  EXPECT_TRUE(refuses(y, {x, s}, {w.to(at::kFloat), b})) << "a deep matrix that would be rounded first";
  EXPECT_TRUE(refuses(y.t().contiguous().t(), {x, s}, {w, b})) << "a result by columns";
  EXPECT_TRUE(refuses(y, {x.t().contiguous().t(), s}, {w, b}));
  EXPECT_TRUE(refuses(y, {layouts(x)[3], s}, {w, b})) << "off a boundary";
  EXPECT_TRUE(refuses(y.narrow(0, 0, 100), {x.narrow(0, 0, 100), s.narrow(0, 0, 100)}, {w, b})) << "not one tile";
  EXPECT_TRUE(refuses(y.narrow(1, 0, 12), {x, s}, {w.narrow(1, 0, 12), b.narrow(1, 0, 12)}));
  EXPECT_TRUE(refuses(y, {x, s.narrow(1, 0, 0)}, {w, b.narrow(0, 0, 0)})) << "no thin pair";
  at::Tensor same = y;
  const auto version = same._version();
  EXPECT_FALSE(ops::detail::sum_by_kappend(
      same, {x, s}, {w, b}, 1.0, false, KAppendTile::k128x128, [](const KAppendParameters&) { return false; }));
  EXPECT_EQ(same._version(), version);
}

TEST(SumByKAppend, RefusesAResultThatOverlaps) {
  at::Tensor y = bf16({128, 128});
  const at::Tensor s = bf16({128, 8}), b = bf16({8, 128});
  EXPECT_THROW(
      ops::detail::sum_by_kappend(y, {y, s}, {bf16({128, 128}), b}, 1.0, false, KAppendTile::k128x128, host_kappend),
      c10::Error);
}

/// Pairs of depths 8, 72, 16 and 64 for a result `[130, 24]`, and their sum.
struct SumOfFour {
  std::vector<at::Tensor> a, b;
  at::Tensor sum = at::zeros({130, 24}, at::kDouble);

  SumOfFour() {
    for (const int64_t depth : {8, 72, 16, 64}) {
      a.push_back(bf16({130, depth}));
      b.push_back(bf16({depth, 24}));
      sum += a.back().to(at::kDouble).mm(b.back().to(at::kDouble));
    }
  }
};

/// In fp64 and rounded.
bool add_by_aten(at::Tensor& y, at::TensorList a, at::TensorList b, bool accumulate) {
  at::Tensor sum = accumulate ? y.to(at::kDouble) : at::zeros(y.sizes(), at::kDouble);
  for (size_t i = 0; i < a.size(); ++i) {
    sum += 0.5 * a[i].to(at::kDouble).mm(b[i].to(at::kDouble));
  }
  y.copy_(sum);
  return true;
}

std::vector<int64_t> depths(at::TensorList a) {
  std::vector<int64_t> all;
  for (const at::Tensor& each : a) {
    all.push_back(each.size(1));
  }
  return all;
}

TEST(SumWithKAppend, TakesTheDeepestAndTheThinnestPairAfterTheOthers) {
  at::manual_seed(2);
  const SumOfFour four;
  for (const bool accumulate : {false, true}) {
    for (const bool works : {true, false}) {
      const at::Tensor start = bf16({130, 24});
      at::Tensor y = accumulate ? start.clone() : at::full_like(start, std::numeric_limits<float>::quiet_NaN());
      std::vector<std::vector<int64_t>> by_gemms;
      EXPECT_TRUE(ops::detail::sum_with_kappend(
          y, four.a, four.b, 0.5, accumulate,
          [](const KAppendParameters& deep, at::TensorList a, at::TensorList) {
            EXPECT_EQ(depths(a), (std::vector<int64_t>{72, 8}));
            EXPECT_EQ(deep.beta, 1.0f);
            return std::optional(KAppendTile::k128x256);
          },
          [&](const KAppendParameters& p) {
            EXPECT_EQ(p.tile, KAppendTile::k128x256);
            return works && host_kappend(p);
          },
          [&](at::Tensor& result, at::TensorList a, at::TensorList b, bool adds) {
            by_gemms.push_back(depths(a));
            return add_by_aten(result, a, b, adds);
          }));
      std::vector<std::vector<int64_t>> expected{{16, 64}};
      if (!works) {
        expected.push_back({72, 8});
      }
      EXPECT_EQ(by_gemms, expected);
      EXPECT_LT(
          error(y, 0.5 * four.sum + (accumulate ? start.to(at::kDouble) : at::zeros_like(four.sum))),
          2 * tolerance(at::kBFloat16));
    }
  }
}

TEST(SumWithKAppend, TakesTwoPairsInEitherOrder) {
  at::manual_seed(3);
  const at::Tensor x = bf16({130, 72}), w = bf16({72, 24}), s = bf16({130, 8}), b = bf16({8, 24});
  const at::Tensor sum = x.to(at::kDouble).mm(w.to(at::kDouble)) + s.to(at::kDouble).mm(b.to(at::kDouble));
  const auto choose = [](const KAppendParameters& deep, at::TensorList, at::TensorList) {
    EXPECT_EQ(deep.depth, 72);
    EXPECT_EQ(deep.rank, 8);
    EXPECT_EQ(deep.beta, 0.0f);
    return std::optional(KAppendTile::k128x128);
  };
  const auto none = [](at::Tensor&, at::TensorList, at::TensorList, bool) {
    ADD_FAILURE() << "no pair is left over";
    return false;
  };
  at::Tensor y = bf16({130, 24});
  ASSERT_TRUE(ops::detail::sum_with_kappend(y, {x, s}, {w, b}, 1.0, false, choose, host_kappend, none));
  EXPECT_LT(error(y, sum), tolerance(at::kBFloat16));
  y.zero_();
  ASSERT_TRUE(ops::detail::sum_with_kappend(y, {s, x}, {b, w}, 1.0, false, choose, host_kappend, none));
  EXPECT_LT(error(y, sum), tolerance(at::kBFloat16));
}

TEST(SumWithKAppend, DoesNothingWhereTheKernelIsNotChosen) {
  const SumOfFour four;
  at::Tensor y = bf16({130, 24});
  const at::Tensor start = y.clone();
  int asked = 0;
  const auto sum = [&](at::TensorList a, at::TensorList b) {
    return ops::detail::sum_with_kappend(
        y, a, b, 1.0, false,
        [&](const KAppendParameters&, at::TensorList, at::TensorList) {
          ++asked;
          return std::optional<KAppendTile>();
        },
        [](const KAppendParameters&) { return false; },
        [](at::Tensor&, at::TensorList, at::TensorList, bool) {
          ADD_FAILURE();
          return true;
        });
  };
  EXPECT_FALSE(sum(four.a, four.b));
  EXPECT_EQ(asked, 1);
  EXPECT_FALSE(sum({four.a[0]}, {four.b[0]}));
  EXPECT_FALSE(sum({four.a[0], four.a[1]}, {four.b[0], four.b[1].to(at::kFloat)})) << "a deep matrix to be rounded";
  EXPECT_EQ(asked, 1);
  EXPECT_TRUE(at::equal(y, start));
}

TEST(SumShape, IsOneForRowsUpToAPowerOfTwo) {
  const auto rows_of = [](int64_t rows) {
    KAppendParameters p = suitable(/*transposed=*/true);
    p.rows = rows;
    return ops::detail::sum_shape(p, /*device=*/0).rows;
  };
  EXPECT_EQ(rows_of(128), 128);
  EXPECT_EQ(rows_of(129), 256);
  EXPECT_EQ(rows_of(8192), 8192);
  const SumShape shape = ops::detail::sum_shape(suitable(/*transposed=*/true), /*device=*/3);
  EXPECT_EQ(shape, (SumShape{256, 48, 100, 12, true, false, 3}));
}

} // namespace
} // namespace rora
