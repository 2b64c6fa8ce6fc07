#include "kernels/low_rank.h"

#include <ops/cuda/low_rank_products.h>
#include <rora/core/low_rank_products.h>

namespace rora::testing {
namespace {

using kernels::LowRankGradientParameters;
using kernels::LowRankGradientXParameters;
using kernels::LowRankProducts;
using kernels::LowRankShrinkParameters;
using kernels::cuda::BFloat16;

int launches = 0; ///< of products

/// The GPU's kernels, run on the host.
const ops::detail::LowRankKernels kOnTheHost{
    [](const LowRankShrinkParameters& p) {
      ++launches;
      run_shrink(p);
    },
    [](const LowRankGradientParameters& p) {
      ++launches;
      run_gradient(p);
    },
    [](const LowRankGradientXParameters& p) {
      ++launches;
      run_gradient_x(p);
    },
    run_partial_sums};

struct Case {
  at::ScalarType activations, masters;
  int64_t rows, rank;
  int launches; ///< that are expected of all the ops
};

TEST(LowRankProductsOnAGpu, AreTheReferences) {
  at::manual_seed(1);
  constexpr int64_t kIn = 600;
  for (const Case& c :
       {Case{at::kFloat, at::kFloat, 70, 5, 4},
        {at::kBFloat16, at::kFloat, 3, 8, 4},
        {at::kBFloat16, at::kBFloat16, 20, 16, 4},
        {at::kBFloat16, at::kFloat, 1, 70, 4}, // dS by the reference
        {at::kFloat, at::kFloat, 2, 130, 0},
        {at::kDouble, at::kDouble, 6, 4, 0},
        {at::kHalf, at::kHalf, 6, 8, 0}, // whole by the reference
        {at::kHalf, at::kFloat, 6, 8, 0},
        {at::kFloat, at::kBFloat16, 6, 4, 1}}) { // only dA, which reads neither
    const at::Tensor x = at::randn({c.rows, kIn}).to(c.activations), dx = at::randn({c.rows, kIn}).to(c.activations);
    const at::Tensor thin = at::randn({c.rows, c.rank + 3}).to(c.activations).narrow(1, 3, c.rank);
    const at::Tensor a = at::randn({c.rank, kIn}).to(c.masters), b = at::randn({kIn, c.rank}).to(c.masters);
    const double p = 0.2, scale = 0.5;
    const int64_t seed = -11;
    const double close = c.activations == at::kBFloat16 ? 1e-2 : 1e-5;
    launches = 0;
    const at::Tensor shrunk = ops::detail::low_rank_shrink(kOnTheHost, x, a, scale, p, seed);
    const auto [dshrunk, db] = ops::detail::low_rank_gradient_b(kOnTheHost, x, thin, b, scale, {true, true});
    const at::Tensor da = ops::detail::low_rank_gradient_a(kOnTheHost, thin, x, c.activations, p, seed);
    at::Tensor own_dx = dx.clone(), their_dx = dx.clone();
    ops::detail::low_rank_gradient_x_(kOnTheHost, own_dx, thin, a, p, seed);
    EXPECT_EQ(launches, c.launches) << c.rank;
    const auto [their_dshrunk, their_db] = ops::reference::low_rank_gradient_b(x, thin, b, scale, {true, true});
    EXPECT_LT(error(shrunk, ops::reference::low_rank_shrink(x, a, scale, p, seed)), close);
    EXPECT_LT(error(dshrunk, their_dshrunk), close);
    EXPECT_LT(error(db, their_db), close);
    EXPECT_LT(error(da, ops::reference::low_rank_gradient_a(thin, x, c.activations, p, seed)), close);
    EXPECT_LT(error(own_dx, ops::reference::low_rank_gradient_x_(their_dx, thin, a, p, seed)), close);
    EXPECT_EQ(shrunk.scalar_type(), c.activations);
    EXPECT_EQ(dshrunk.scalar_type(), c.activations);
    EXPECT_EQ(db.scalar_type(), c.masters);
    EXPECT_EQ(da.scalar_type(), c.activations);
  }
}

TEST(LowRankProductsOnAGpu, TakeMatricesHoweverTheyLie) {
  at::manual_seed(2);
  const at::Tensor x = at::randn({40, 9}).t(), a = at::randn({40, 6}).t(); // columns are dense
  EXPECT_LT(error(ops::detail::low_rank_shrink(kOnTheHost, x, a, 1.0, 0.0, 0), x.mm(a.t())), 1e-5);
  const at::Tensor dy = at::ones({}).expand({9, 40}), shrunk = at::randn({6, 9}).t();
  const auto [dshrunk, db] = ops::detail::low_rank_gradient_b(kOnTheHost, dy, shrunk, a.t(), 1.0, {true, true});
  EXPECT_LT(error(dshrunk, dy.mm(a.t())), 1e-5);
  EXPECT_LT(error(db, dy.t().mm(shrunk)), 1e-5);
}

TEST(LowRankProductsOnAGpu, GiveWhatIsAskedFor) {
  const at::Tensor dy = at::randn({4, 40}), shrunk = at::randn({4, 3}), b = at::randn({40, 3});
  for (const bool first : {false, true}) {
    for (const bool second : {false, true}) {
      const auto [dshrunk, db] = ops::detail::low_rank_gradient_b(kOnTheHost, dy, shrunk, b, 1.0, {first, second});
      EXPECT_EQ(dshrunk.defined(), first);
      EXPECT_EQ(db.defined(), second);
    }
  }
}

/// What was asked whether products are preferred, in order, and what is answered.
std::vector<ops::detail::ThinShape> asked;
bool answer = false;

TEST(LowRankProductsOnAGpu, AreMatrixProductsWhereTheseArePreferred) {
  at::manual_seed(6);
  ops::detail::LowRankKernels kernels = kOnTheHost;
  kernels.prefers_products = [](const ops::detail::ThinShape& shape, c10::function_ref<void()> by_kernel,
                                c10::function_ref<void()> by_products) {
    asked.push_back(shape);
    by_products(); // a trial of either leaves nothing behind
    by_kernel();
    return answer;
  };
  const at::Tensor x = at::randn({9, 40}), a = at::randn({16, 40}), dy = at::randn({9, 48}), b = at::randn({48, 16});
  const at::Tensor shrunk = at::randn({9, 16});
  for (const bool products : {false, true}) {
    answer = products;
    asked.clear();
    launches = 0;
    at::Tensor dshrunk = at::empty({9, 20}).narrow(1, 2, 16);
    const at::Tensor s = ops::detail::low_rank_shrink(kernels, x, a, 0.5, 0.0, 0);
    const at::Tensor db = ops::detail::low_rank_gradient_b_into(kernels, dy, shrunk, b, 0.5, true, dshrunk);
    const at::Tensor da = ops::detail::low_rank_gradient_a(kernels, shrunk, x, at::kFloat, 0.0, 0);
    EXPECT_EQ(launches, products ? 3 : 6); // with the trials
    using Shape = ops::detail::ThinShape;
    using ops::detail::ThinPass;
    EXPECT_EQ(
        asked,
        (std::vector<Shape>{
            {ThinPass::kShrink, 16, 40, 16, false, false, -1},
            {ThinPass::kGradientB, 16, 48, 16, false, false, -1},
            {ThinPass::kGradientA, 16, 40, 16, false, false, -1}}));
    EXPECT_LT(error(s, 0.5 * x.mm(a.t())), 1e-5);
    EXPECT_LT(error(dshrunk, 0.5 * dy.mm(b)), 1e-5);
    EXPECT_LT(error(db, dy.t().mm(shrunk)), 1e-5);
    EXPECT_LT(error(da, shrunk.t().mm(x)), 1e-5);
  }
  asked.clear();
  ops::detail::low_rank_shrink(kernels, x, a, 0.5, /*p=*/0.2, 3);
  ops::detail::low_rank_gradient_a(kernels, shrunk, x, at::kFloat, /*p=*/0.2, 3);
  EXPECT_TRUE(asked.empty()) << "with dropout, products would have a pass of their own";
}

TEST(LowRankProductsOnAGpu, WriteTheInputsGradientBesideAnother) {
  at::manual_seed(4);
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    for (const int64_t rank : {3, 16, 70, 130}) { // by one kernel, by the reference for its rank, and whole by that
      const at::Tensor dy = at::randn({9, 40}).to(dtype), shrunk = at::randn({9, rank}).to(dtype);
      const at::Tensor b = at::randn({40, rank});
      const auto [dshrunk, db] = ops::detail::low_rank_gradient_b(kOnTheHost, dy, shrunk, b, 0.5, {true, true});
      for (const bool needs_db : {false, true}) {
        const at::Tensor rows = at::full({9, rank + 5}, 7.0, dtype);
        at::Tensor place = rows.narrow(1, 2, rank);
        const at::Tensor there = ops::detail::low_rank_gradient_b_into(kOnTheHost, dy, shrunk, b, 0.5, needs_db, place);
        EXPECT_TRUE(at::equal(place, dshrunk)) << dtype << rank;
        EXPECT_EQ(there.defined(), needs_db);
        EXPECT_TRUE(!needs_db || at::equal(there, db));
        EXPECT_TRUE((rows.narrow(1, 0, 2) == 7.0).all().item<bool>());
        EXPECT_TRUE((rows.narrow(1, rank + 2, 3) == 7.0).all().item<bool>());
      }
    }
  }
  at::Tensor narrow = at::empty({9, 2});
  EXPECT_THROW(
      ops::detail::low_rank_gradient_b_into(
          kOnTheHost, at::randn({9, 40}), at::randn({9, 3}), at::randn({40, 3}), 1.0, true, narrow),
      c10::ValueError);
}

TEST(LowRankProductsOnAGpu, NeedNoShrunkInputWhereBIsFrozen) {
  at::manual_seed(3);
  for (const int64_t rank : {3, 70, 130}) { // by one kernel, by the reference for its rank, and whole by the reference
    const at::Tensor dy = at::randn({4, 40}), b = at::randn({40, rank});
    for (const at::Tensor& shrunk : {at::Tensor(), at::empty({0})}) {
      const auto [dshrunk, db] = ops::detail::low_rank_gradient_b(kOnTheHost, dy, shrunk, b, 0.5, {true, false});
      EXPECT_LT(error(dshrunk, 0.5 * dy.mm(b)), 1e-5) << rank;
      EXPECT_FALSE(db.defined());
      const auto [none, neither] = ops::detail::low_rank_gradient_b(kOnTheHost, dy, shrunk, b, 0.5, {false, false});
      EXPECT_FALSE(none.defined() || neither.defined());
    }
  }
}

TEST(LowRankProductsOnAGpu, TakeNoRows) {
  const at::Tensor x = at::empty({0, 40}), thin = at::empty({0, 3}), a = at::randn({3, 40});
  EXPECT_EQ(ops::detail::low_rank_shrink(kOnTheHost, x, a, 1.0, 0.0, 0).size(0), 0);
  const auto [dshrunk, db] = ops::detail::low_rank_gradient_b(kOnTheHost, x, thin, a.t(), 1.0, {true, true});
  EXPECT_EQ(dshrunk.size(0), 0);
  EXPECT_TRUE(at::equal(db, at::zeros({40, 3})));
  EXPECT_TRUE(at::equal(ops::detail::low_rank_gradient_a(kOnTheHost, thin, x, at::kFloat, 0.5, 1), at::zeros({3, 40})));
}

TEST(LowRankGeometry, GivesEverySMWorkWithLittleRoom) {
  constexpr int64_t kRows = 8192;
  for (const int64_t rank : {16, 32, 64, 128}) {
    for (const int64_t columns : {1024, 4096, 14336}) {
      EXPECT_EQ(LowRankShrinkParameters::parts_for(kRows, columns), 1);
      const int64_t strips = LowRankGradientParameters::strips(columns, rank);
      const int64_t parts = LowRankGradientParameters::parts_for(kRows, columns, rank);
      EXPECT_GE(strips * parts, 112) << columns << ", rank " << rank;
      EXPECT_LE(strips * parts, 2 * LowRankProducts::kSMs);
      // What is written beside dy or x is hardly more than they are.
      const int64_t of_strips = rank <= LowRankGradientParameters::kMostRankInOnePass ? strips * kRows * rank : 0;
      const int64_t room = (of_strips + parts * columns * rank) * static_cast<int64_t>(sizeof(float));
      EXPECT_LE(room, kRows * columns * 2 * 11 / 10) << columns << ", rank " << rank;
    }
  }
}

TEST(LowRankGeometry, DividesTheColumnsOfFewRows) {
  EXPECT_EQ(LowRankShrinkParameters::parts_for(0, 4096), 1);
  EXPECT_EQ(LowRankShrinkParameters::parts_for(1, 100), 1);
  EXPECT_EQ(LowRankShrinkParameters::parts_for(1, 4096), 8);
  EXPECT_EQ(LowRankShrinkParameters::parts_for(1024, 14336), 8);
  EXPECT_EQ(LowRankShrinkParameters::parts_for(4096, 4096), 2);
  EXPECT_EQ(LowRankGradientParameters::parts_for(0, 4096, 16), 1);
  EXPECT_EQ(LowRankGradientParameters::parts_for(1, 4096, 16), 1);
  EXPECT_EQ(LowRankGradientParameters::parts_for(300, 4096, 16), 3);
  EXPECT_EQ(LowRankGradientParameters::parts_for(8192, 1 << 20, 16), 1);
}

} // namespace
} // namespace rora::testing
