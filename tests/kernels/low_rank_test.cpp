#include "kernels/low_rank.h"

#include <rora/core/dropout.h>

#include <functional>
#include <tuple>
#include <vector>

namespace rora::testing {
namespace {

using kernels::LowRankGradientParameters;
using kernels::LowRankGradientXParameters;
using kernels::LowRankProducts;
using kernels::LowRankShrinkParameters;
using kernels::PartialSumsParameters;
using ops::Dropout;

at::Tensor sum_of(const at::Tensor& partial, double scale, at::IntArrayRef sizes, at::ScalarType dtype) {
  at::Tensor sum = at::full(sizes, NAN, dtype);
  PartialSumsParameters p;
  p.results[0] = {partial.data_ptr<float>(), partial.size(0), sum.numel(), scale, kernel_type(sum), sum.data_ptr()};
  run_partial_sums(p);
  return sum;
}

at::Tensor shrink(const at::Tensor& x, const at::Tensor& a, double scale, Dropout dropout, int64_t parts) {
  LowRankShrinkParameters p;
  p.type = kernel_type(x);
  p.a_type = kernel_type(a);
  p.rows = x.size(0);
  p.columns = x.size(1);
  p.rank = a.size(0);
  p.scale = scale;
  p.p = dropout.p;
  p.seed = dropout.seed;
  p.x = rows_of(x);
  p.a = rows_of(a);
  p.parts = parts;
  const at::Tensor shrunk = at::full({p.rows, p.rank}, NAN, x.options());
  const at::Tensor partial = at::full({parts, p.rows, p.rank}, NAN, at::kFloat);
  p.shrunk = shrunk.data_ptr();
  p.partial = partial.data_ptr<float>();
  run_shrink(p);
  return parts > 1 ? sum_of(partial, scale, shrunk.sizes(), x.scalar_type()) : shrunk;
}

/// (scale·wide·b, wideᵀ·thin): the first where b is defined, the second where `thin` is.
std::tuple<at::Tensor, at::Tensor> gradients(
    const at::Tensor& wide, const at::Tensor& thin, const at::Tensor& b, double scale, Dropout dropout, int64_t parts,
    bool transposed = false) {
  LowRankGradientParameters p;
  p.type = kernel_type(wide);
  p.rows = wide.size(0);
  p.columns = wide.size(1);
  p.rank = b.defined() ? b.size(1) : thin.size(1);
  p.p = dropout.p;
  p.seed = dropout.seed;
  p.wide = rows_of(wide);
  p.parts = parts;
  p.transposed = transposed;
  at::Tensor of_rows, of_columns;
  if (thin.defined()) {
    p.thin = rows_of(thin);
    of_columns = at::full({parts, p.columns * p.rank}, NAN, at::kFloat);
    p.gradient = of_columns.data_ptr<float>();
  }
  if (b.defined()) {
    p.b = rows_of(b);
    p.b_type = kernel_type(b);
    of_rows = at::full({LowRankGradientParameters::strips(p.columns, p.rank), p.rows, p.rank}, NAN, at::kFloat);
    p.dshrunk = of_rows.data_ptr<float>();
  }
  run_gradient(p);
  at::Tensor dshrunk, gradient;
  if (b.defined()) {
    dshrunk = sum_of(of_rows, scale, {p.rows, p.rank}, wide.scalar_type());
  }
  if (thin.defined()) {
    gradient = sum_of(of_columns, 1.0, {transposed ? p.rank : p.columns, transposed ? p.columns : p.rank}, at::kFloat);
  }
  return {dshrunk, gradient};
}

at::Tensor gradient_x(const at::Tensor& dx, const at::Tensor& dshrunk, const at::Tensor& a, Dropout dropout) {
  // What is beside the rows stays as it is.
  const at::Tensor whole = at::full({dx.size(0), dx.size(1) + 16}, 5.0, dx.options());
  const int64_t before = dx.stride(0) == dx.size(1) ? 8 : 3;
  const at::Tensor own = whole.narrow(1, before, dx.size(1)).copy_(dx);
  LowRankGradientXParameters p;
  p.type = kernel_type(dx);
  p.a_type = kernel_type(a);
  p.rows = dx.size(0);
  p.columns = dx.size(1);
  p.rank = a.size(0);
  p.p = dropout.p;
  p.seed = dropout.seed;
  p.dshrunk = rows_of(dshrunk);
  p.a = rows_of(a);
  p.dx = rows_of(own);
  run_gradient_x(p);
  EXPECT_TRUE((whole.narrow(1, 0, before) == 5.0).all().item<bool>());
  EXPECT_TRUE((whole.narrow(1, before + dx.size(1), 16 - before) == 5.0).all().item<bool>());
  return own.clone();
}

struct Shape {
  int64_t rows, columns, rank;
  int64_t before; ///< numbers before and after each row of every matrix
};

std::string name(const Shape& shape) {
  return std::to_string(shape.rows) + "x" + std::to_string(shape.columns) + ", rank " + std::to_string(shape.rank);
}

/// Activations' dtype and that of A and B.
class LowRankKernels : public ::testing::TestWithParam<std::tuple<at::ScalarType, at::ScalarType>> {
 protected:
  static constexpr double kScale = 0.7;
  const at::ScalarType dtype = std::get<0>(GetParam()), master = std::get<1>(GetParam());

  /// All, or the last two where A and B need no rounding: that is little code of its own.
  std::vector<Shape> some(std::vector<Shape> shapes) const {
    if (master == at::kBFloat16) {
      shapes.erase(shapes.begin(), shapes.end() - 2);
    }
    return shapes;
  }

  static at::Tensor random(int64_t rows, int64_t columns, int64_t before, at::ScalarType of) {
    return at::randn({rows, columns + 2 * before}).to(of).narrow(1, before, columns);
  }
};

TEST_P(LowRankKernels, ShrinkAsEagerDoesAtAnySize) {
  at::manual_seed(1);
  for (const Shape& shape : some(
           {{1, 8, 1, 0},
            {300, 72, 8, 0},
            {127, 100, 8, 8},
            {65, 330, 13, 0},
            {66, 576, 16, 8},
            {5, 77, 5, 3},
            {3, 71, 40, 1},
            {70, 144, 64, 8},
            {33, 96, 96, 0}})) {
    const at::Tensor x = random(shape.rows, shape.columns, shape.before, dtype);
    const at::Tensor a = random(shape.rank, shape.columns, shape.before, master);
    const at::Tensor truth = kScale * x.to(at::kDouble).mm(a.to(dtype).to(at::kDouble).t());
    const at::Tensor eager = x.mm(a.to(dtype).t()) * kScale;
    for (const int64_t parts : {1, 3}) {
      expect_right(shrink(x, a, kScale, {}, parts), truth, eager, name(shape));
    }
  }
}

TEST_P(LowRankKernels, GiveTheGradientsOfBAndOfWhatIsShrunkInOnePass) {
  at::manual_seed(2);
  for (const Shape& shape : some(
           {{1, 8, 1, 0},
            {300, 40, 8, 0},
            {127, 100, 8, 8},
            {37, 530, 13, 0},
            {50, 300, 32, 8},
            {20, 71, 40, 0},
            {18, 77, 5, 3},
            {36, 264, 64, 8}})) {
    const at::Tensor dy = random(shape.rows, shape.columns, shape.before, dtype);
    const at::Tensor shrunk = random(shape.rows, shape.rank, shape.before, dtype);
    const at::Tensor b = random(shape.columns, shape.rank, shape.before, master);
    const at::Tensor wide = dy.to(at::kDouble);
    const at::Tensor true_db = wide.t().mm(shrunk.to(at::kDouble)), eager_db = dy.t().mm(shrunk);
    const at::Tensor true_dshrunk = kScale * wide.mm(b.to(dtype).to(at::kDouble));
    const at::Tensor eager_dshrunk = dy.mm(b.to(dtype)) * kScale;
    const auto [dshrunk, db] = gradients(dy, shrunk, b, kScale, {}, 2);
    expect_right(dshrunk, true_dshrunk, eager_dshrunk, "dS, " + name(shape));
    expect_right(db, true_db, eager_db, "dB, " + name(shape));
    const at::Tensor alone = std::get<0>(gradients(dy, at::Tensor(), b, kScale, {}, 1));
    EXPECT_TRUE(at::equal(alone, dshrunk)) << "dS alone, " << name(shape);
    const at::Tensor other = std::get<1>(gradients(dy, shrunk, at::Tensor(), kScale, {}, 2));
    EXPECT_TRUE(at::equal(other, db)) << "dB alone, " << name(shape);
  }
}

TEST_P(LowRankKernels, GiveTheGradientOfA) {
  at::manual_seed(3);
  for (const Shape& shape :
       some({{1, 8, 1, 0}, {127, 100, 16, 8}, {18, 530, 40, 8}, {35, 136, 96, 0}, {17, 30, 5, 3}})) {
    const at::Tensor x = random(shape.rows, shape.columns, shape.before, dtype);
    const at::Tensor dshrunk = random(shape.rows, shape.rank, shape.before, dtype);
    const at::Tensor truth = dshrunk.to(at::kDouble).t().mm(x.to(at::kDouble));
    for (const int64_t parts : {1, 2}) {
      const at::Tensor found = std::get<1>(gradients(x, dshrunk, at::Tensor(), 1.0, {}, parts, true));
      expect_right(found, truth, dshrunk.t().mm(x), name(shape));
    }
  }
}

TEST_P(LowRankKernels, AddTheDroppedGradientOfX) {
  at::manual_seed(4);
  for (const Shape& shape :
       some({{1, 8, 1, 0}, {127, 100, 8, 8}, {65, 270, 13, 0}, {3, 71, 40, 1}, {34, 136, 96, 8}})) {
    const at::Tensor dx = random(shape.rows, shape.columns, shape.before, dtype);
    const at::Tensor dshrunk = random(shape.rows, shape.rank, shape.before, dtype);
    const at::Tensor a = random(shape.rank, shape.columns, shape.before, master);
    for (const Dropout dropout : {Dropout{0.4, 17}, {1.0, 3}}) {
      const at::Tensor mask = dropout.mask(dx.sizes(), at::kDouble);
      const at::Tensor truth = dx.to(at::kDouble) + mask * dshrunk.to(at::kDouble).mm(a.to(dtype).to(at::kDouble));
      const at::Tensor eager = dx + dropout.apply(dshrunk.mm(a.to(dtype)));
      const at::Tensor found = gradient_x(dx, dshrunk, a, dropout);
      expect_right(found, truth, eager, name(shape));
      EXPECT_TRUE(at::equal(found.masked_select(mask == 0), dx.masked_select(mask == 0))) << name(shape);
    }
  }
}

/// The same bits come of x dropped before as of x dropped in the kernel.
TEST_P(LowRankKernels, DropWhatDropoutDrops) {
  at::manual_seed(5);
  for (const int64_t columns : {64, 70, 75}) { // of which a row begins with a counter's words, or among them
    const at::Tensor x = random(67, columns, columns == 64 ? 8 : 0, dtype), a = random(8, columns, 0, master);
    const at::Tensor thin = random(67, 8, 0, dtype);
    for (const Dropout dropout : {Dropout{0.3, uint64_t{1} << 63}, {1.0, 7}}) {
      const at::Tensor dropped = dropout.apply(x);
      EXPECT_TRUE(at::equal(shrink(x, a, kScale, dropout, 1), shrink(dropped, a, kScale, {}, 1))) << columns;
      EXPECT_TRUE(at::equal(
          std::get<1>(gradients(x, thin, at::Tensor(), 1.0, dropout, 1, true)),
          std::get<1>(gradients(dropped, thin, at::Tensor(), 1.0, {}, 1, true))))
          << columns;
    }
  }
}

TEST_P(LowRankKernels, DoNotDependOnTheOrderOfThreads) {
  namespace host = kernels::cuda::host;
  at::manual_seed(6);
  const at::Tensor x = random(50, 530, 0, dtype), thin = random(50, 24, 0, dtype);
  const at::Tensor a = random(24, 530, 0, master), b = random(530, 24, 0, master);
  std::vector<at::Tensor> first;
  for (const auto order : {host::Order::kAscending, host::Order::kDescending, host::Order::kShuffled}) {
    order_of_threads() = order;
    const auto [dshrunk, db] = gradients(x, thin, b, kScale, {0.2, 5}, 1);
    const std::vector<at::Tensor> all{shrink(x, a, kScale, {0.2, 5}, 1), dshrunk, db, gradient_x(x, thin, a, {0.2, 5})};
    if (first.empty()) {
      first = all;
    }
    for (size_t i = 0; i < all.size(); ++i) {
      EXPECT_TRUE(at::equal(all[i], first[i])) << "output " << i << ": a barrier lacks";
    }
  }
}

TEST_P(LowRankKernels, TakeNoRows) {
  const at::Tensor x = at::empty({0, 40}, dtype), thin = at::empty({0, 4}, dtype), b = at::randn({40, 4}).to(master);
  EXPECT_EQ(shrink(x, b.t().contiguous(), 1.0, {}, 1).size(0), 0);
  EXPECT_TRUE(at::equal(std::get<1>(gradients(x, thin, b, 1.0, {}, 1)), at::zeros({40, 4})));
}

INSTANTIATE_TEST_SUITE_P(
    , LowRankKernels,
    ::testing::Values(
        std::tuple(at::kFloat, at::kFloat), std::tuple(at::kBFloat16, at::kFloat),
        std::tuple(at::kBFloat16, at::kBFloat16)),
    [](const auto& info) {
      return std::string(c10::toString(std::get<0>(info.param))) + "By" + c10::toString(std::get<1>(info.param));
    });

} // namespace
} // namespace rora::testing
