#include <rora/ops/prepacked_weight.h>
#include <rora/core/sum_of_products.h>

#include <ops/cpu/kernels.h>
#include <ops/launch.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace rora::ops {
namespace {

struct Pairs {
  std::vector<at::Tensor> a, b;
};

/// Pairs of the given depths; B's of odd index are transposes, and those from the third on fp32.
Pairs pairs(int64_t rows, int64_t columns, const std::vector<int64_t>& depths, at::ScalarType dtype) {
  Pairs all;
  for (const int64_t depth : depths) {
    const size_t i = all.a.size();
    all.a.push_back(at::randn({rows, depth}).to(dtype));
    const at::Tensor b = i % 2 == 1 ? at::randn({columns, depth}).t() : at::randn({depth, columns});
    all.b.push_back(i < 2 ? b.to(dtype) : b);
  }
  return all;
}

/// In double, of the numbers as they are multiplied.
at::Tensor truth(const Pairs& pairs) {
  at::Tensor sum;
  for (size_t i = 0; i < pairs.a.size(); ++i) {
    const at::Tensor b = pairs.b[i].to(pairs.a[i].scalar_type()).to(at::kDouble);
    const at::Tensor product = pairs.a[i].to(at::kDouble).mm(b);
    sum = sum.defined() ? sum + product : product;
  }
  return sum;
}

/// Of the greatest element.
double error(const at::Tensor& y, const at::Tensor& truth) {
  return ((y.to(at::kDouble) - truth).abs().max() / truth.abs().max()).item<double>();
}

constexpr double kBFloat16Rounding = 1.0 / 256;

double tolerance(at::ScalarType dtype) {
  return dtype == at::kDouble ? 1e-13 : dtype == at::kFloat ? 3e-6 : kBFloat16Rounding;
}

/// The kernel rounds once; the reference once a product, and a wide result as well.
double tolerance(at::ScalarType dtype, at::ScalarType result, size_t products) {
  at::Tensor one = at::empty({}, dtype);
  if (kernels::leads_products(detail::kernel_type(one))) {
    return tolerance(result);
  }
  return tolerance(dtype) * static_cast<double>(products + 1);
}

TEST(SumOfProducts, IsTheSumAtAnySize) {
  at::manual_seed(1);
  for (const auto dtype : {at::kFloat, at::kDouble, at::kBFloat16}) {
    for (const int64_t rows : {8, 9, 25, 61}) {
      for (const int64_t columns : {1, 15, 16, 33, 48, 95, 96, 97, 250}) {
        for (const std::vector<int64_t>& depths :
             {std::vector<int64_t>{1}, {7}, {64, 16}, {33, 5, 2}, {40, 40, 40, 3}}) {
          const Pairs each = pairs(rows, columns, depths, dtype);
          EXPECT_LT(error(sum_of_products(each.a, each.b), truth(each)), tolerance(dtype, dtype, depths.size()))
              << dtype << " " << rows << " " << columns << " " << depths.size();
        }
      }
    }
  }
}

TEST(SumOfProducts, TakesADepthBeyondWhatIsPackedAtOnce) {
  at::manual_seed(2);
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const Pairs each = pairs(50, 130, {9001, 4000, 31}, dtype);
    EXPECT_LT(error(sum_of_products(each.a, each.b), truth(each)), tolerance(dtype, dtype, 3)) << dtype;
  }
}

TEST(SumOfProducts, ScalesAndAddsInTheWideType) {
  at::manual_seed(3);
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const Pairs each = pairs(40, 100, {64, 16}, dtype);
    const at::Tensor columns = at::rand({100});
    const at::Tensor scaled = sum_of_products(each.a, each.b, 0.3, columns, at::kFloat);
    EXPECT_EQ(scaled.scalar_type(), at::kFloat);
    EXPECT_LT(error(scaled, truth(each) * 0.3 * columns), tolerance(dtype, at::kFloat, 2)) << dtype;
    at::Tensor y = at::ones({40, 100}, dtype);
    sum_of_products_(y, each.a, each.b, 0.3);
    EXPECT_LT(error(y, truth(each) * 0.3 + 1.0), tolerance(dtype, dtype, 2)) << dtype;
    sum_of_products_(y, each.a, each.b, 2.0, /*accumulate=*/false);
    EXPECT_LT(error(y, truth(each) * 2.0), tolerance(dtype, dtype, 2)) << dtype;
  }
}

TEST(SumOfProducts, ReadsAndWritesRowsApart) {
  at::manual_seed(4);
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const at::Tensor wide = at::randn({30, 101}).to(dtype);
    const Pairs each{
        {wide.narrow(1, 1, 50), wide.narrow(1, 51, 33)},
        {at::randn({90, 77}).to(dtype).narrow(0, 3, 50).narrow(1, 5, 40),
         at::randn({40, 55}).to(dtype).narrow(1, 1, 33).t()}};
    at::Tensor room = at::zeros({30, 60}, dtype);
    at::Tensor y = room.narrow(1, 7, 40);
    sum_of_products_(y, each.a, each.b);
    EXPECT_LT(error(y, truth(each)), tolerance(dtype, dtype, 2)) << dtype;
    EXPECT_EQ(room.narrow(1, 0, 7).abs().sum().item<double>() + room.narrow(1, 47, 13).abs().sum().item<double>(), 0.0);
  }
}

TEST(SumOfProducts, TakesTransposesOnEverySide) {
  at::manual_seed(8);
  for (const auto dtype : {at::kFloat, at::kDouble, at::kBFloat16}) {
    for (const int64_t rows : {8, 17, 90}) {
      const Pairs each{
          {at::randn({70, rows}).to(dtype).t(), at::randn({33, rows + 1}).to(dtype).narrow(1, 1, rows).t()},
          {at::randn({110, 70}).to(dtype).t(), at::randn({33, 110}).to(dtype)}};
      at::Tensor y = at::ones({110, rows}, dtype).t();
      sum_of_products_(y, each.a, each.b);
      EXPECT_LT(error(y, truth(each) + 1.0), tolerance(dtype, dtype, 2)) << dtype << " " << rows;
    }
  }
}

TEST(SumOfProducts, FillsPanelsOfEveryWidth) {
  at::manual_seed(12);
  for (const auto dtype : {at::kFloat, at::kDouble, at::kBFloat16}) {
    for (const int64_t columns : {48, 64, 96, 128, 130, 256}) {
      for (const int64_t rows : {8, 13, 96}) {
        const Pairs each = pairs(rows, columns, {70, 34}, dtype);
        EXPECT_LT(error(sum_of_products(each.a, each.b), truth(each)), tolerance(dtype, dtype, 2))
            << dtype << " " << rows << " " << columns;
      }
    }
    const Pairs deep = pairs(13, 128, {4100, 98}, dtype); // more depth than is packed at once
    EXPECT_LT(error(sum_of_products(deep.a, deep.b), truth(deep)), tolerance(dtype, dtype, 2)) << dtype;
  }
}

TEST(SumOfProducts, WritesATransposeAsItWritesRows) {
  at::manual_seed(13);
  for (const auto dtype : {at::kFloat, at::kDouble, at::kBFloat16}) {
    const at::ScalarType wide = dtype == at::kBFloat16 ? at::kFloat : dtype;
    for (const auto result : {dtype, wide}) {
      for (const int64_t columns : {48, 55, 96, 128}) {
        for (const int64_t rows : {8, 21, 32}) {
          const Pairs each = pairs(rows, columns, {40, 6000}, dtype);
          at::Tensor y = at::empty({rows, columns}, result), turned = at::full({columns, rows}, 7.0, result).t();
          sum_of_products_(y, each.a, each.b, 0.5, /*accumulate=*/false);
          sum_of_products_(turned, each.a, each.b, 0.5, /*accumulate=*/false);
          if (kernels::leads_products(
                  detail::kernel_type(each.a[0]))) { // the bits of LibTorch's products are another's promise
            EXPECT_TRUE(at::equal(turned, y)) << dtype << " " << result << " " << rows << " " << columns;
          }
          EXPECT_LT(error(turned, truth(each) * 0.5), tolerance(dtype, result, 2)) << dtype << " " << result;
          sum_of_products_(turned, each.a, each.b, 0.5);
          EXPECT_LT(error(turned, truth(each)), tolerance(dtype, result, 2)) << dtype << " " << result;
        }
      }
    }
  }
}

TEST(SumOfProducts, OfFloatTakesBFloat16AsItIs) {
  at::manual_seed(9);
  const at::Tensor a = at::randn({16, 200}), w = at::randn({130, 200}).to(at::kBFloat16);
  const at::Tensor exact = a.to(at::kDouble).mm(w.t().to(at::kDouble));
  EXPECT_LT(error(sum_of_products({a}, {w.t()}), exact), tolerance(at::kFloat));
  EXPECT_LT(error(sum_of_products({a}, {w.t().contiguous()}), exact), tolerance(at::kFloat));
}

TEST(SumOfProducts, TellsItsShapeOfMetaTensors) {
  const auto meta = [](at::IntArrayRef sizes, at::ScalarType dtype) {
    return at::empty(sizes, at::TensorOptions(at::kMeta).dtype(dtype));
  };
  const at::Tensor x = meta({9, 4}, at::kBFloat16), thin = meta({9, 2}, at::kBFloat16);
  const at::Tensor w = meta({7, 4}, at::kBFloat16).t();
  const at::Tensor y = sum_of_products({x, thin}, {w, meta({2, 7}, at::kFloat)}, 0.5, meta({7}, at::kFloat));
  EXPECT_TRUE(y.is_meta());
  EXPECT_EQ(y.sizes(), (std::vector<int64_t>{9, 7}));
  EXPECT_EQ(y.scalar_type(), at::kBFloat16);
  const at::Tensor wide = sum_of_products({x}, {w}, 1.0, std::nullopt, at::kFloat);
  EXPECT_EQ(wide.scalar_type(), at::kFloat);
  EXPECT_EQ(wide.sizes(), y.sizes());
  at::Tensor turned = meta({7, 9}, at::kFloat).t();
  sum_of_products_(turned, {x}, {w});
  EXPECT_THROW(sum_of_products({x}, {w.t()}), c10::ValueError);
}

TEST(SumOfProducts, IsTheReferenceToRounding) {
  at::manual_seed(5);
  for (const int64_t rows : {1, 64}) {
    const Pairs each = pairs(rows, 96, {128, 16, 8}, at::kFloat);
    const at::Tensor reference = reference::sum_of_products(each.a, each.b, 0.5, std::nullopt, std::nullopt);
    EXPECT_LT(error(reference, sum_of_products(each.a, each.b, 0.5).to(at::kDouble)), 3e-6) << rows;
  }
}

TEST(SumOfProducts, RefusesWhatDoesNotFit) {
  const at::Tensor a = at::ones({9, 4}), b = at::ones({4, 5});
  EXPECT_THROW(sum_of_products({}, {}), c10::ValueError);
  EXPECT_THROW(sum_of_products({a, a}, {b}), c10::ValueError);
  EXPECT_THROW(sum_of_products({a}, {b.t()}), c10::ValueError);
  EXPECT_THROW(sum_of_products({a, at::ones({8, 4})}, {b, b}), c10::ValueError);
  EXPECT_THROW(sum_of_products({a, a.to(at::kDouble)}, {b, b}), c10::ValueError);
  at::Tensor y = at::ones({9, 6});
  EXPECT_THROW(sum_of_products_(y, {a}, {b}), c10::ValueError);
  for (const int64_t rows : {4, 9}) {
    const at::Tensor left = at::ones({rows, 4});
    for (const at::Tensor& columns : {at::ones({}), at::ones({1}), at::ones({3}), at::ones({rows, 5})}) {
      EXPECT_THROW(sum_of_products({left}, {b}, 1.0, columns), c10::ValueError) << rows << columns.sizes();
    }
    const at::Tensor trained = at::ones({4, 5}).set_requires_grad(true);
    EXPECT_THROW(sum_of_products({left}, {trained}), c10::NotImplementedError) << rows;
    at::Tensor overlapping = at::ones({1, 5}).expand({rows, 5});
    EXPECT_THROW(sum_of_products_(overlapping, {left}, {b}), c10::Error) << rows;
  }
}

TEST(SumOfProducts, GivesTheSameBitsInEveryRunOnAnyNumberOfThreads) {
  at::manual_seed(6);
  const int threads = at::get_num_threads();
  for (const auto dtype : {at::kFloat, at::kDouble, at::kBFloat16}) {
    if (!kernels::leads_products(detail::kernel_type(at::empty({}, dtype)))) {
      continue; // LibTorch's products are another's promise
    }
    // Enough rows for each thread to take its own, a left side that is packed, and more depth than is packed at once.
    const Pairs each{
        {at::randn({5001, 800}).to(dtype).t(), at::randn({800, 17}).to(dtype)},
        {at::randn({5001, 97}).to(dtype), at::randn({97, 17}).to(dtype).t()}};
    const at::Tensor start = at::randn({800, 97}).to(dtype);
    at::Tensor first;
    for (int run = 0; run < 10; ++run) {
      at::set_num_threads(1 + run % 3);
      at::Tensor y = start.clone();
      sum_of_products_(y, each.a, each.b, 0.5);
      if (!first.defined()) {
        first = y;
        EXPECT_LT(error(y, truth(each) * 0.5 + start.to(at::kDouble)), tolerance(dtype)) << dtype;
      }
      EXPECT_TRUE(at::equal(y, first)) << dtype << " " << run;
    }
  }
  at::set_num_threads(threads);
}

TEST(PrepackedWeight, GivesTheDenseWeightsBits) {
  at::manual_seed(10);
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    if (!can_prepack_weights(dtype)) {
      GTEST_SKIP() << "no kernel reads packed weights here";
    }
    for (const auto& [out, in] : {std::pair<int64_t, int64_t>{96, 64}, {50, 34}, {130, 9002}, {33, 48}, {64, 1}}) {
      const at::Tensor w = at::randn({out, in}).to(dtype), b = at::randn({7, out}), a = at::randn({7, in});
      const DenseWeight dense(w);
      const auto packed = prepack_weight(w);
      EXPECT_EQ(packed->prepacked_bytes() > 0, out % 2 == 0 || in % 2 == 0);
      for (const int64_t rows : {1, 9, 77}) { // fewer rows than the kernel takes: the dense weight itself
        const at::Tensor x = at::randn({rows, in}).to(dtype), dy = at::randn({rows, out}).to(dtype);
        const at::Tensor thin = at::randn({rows, 7}).to(dtype);
        EXPECT_TRUE(at::equal(packed->forward(x), dense.forward(x))) << w.sizes() << rows;
        EXPECT_TRUE(at::equal(packed->backward(dy), dense.backward(dy))) << w.sizes() << rows;
        EXPECT_TRUE(at::equal(
            sum_of_products({x, thin}, {packed->forward_matrix(), b}),
            sum_of_products({x, thin}, {dense.forward_matrix(), b})));
        EXPECT_TRUE(at::equal(
            sum_of_products({thin, dy}, {a, packed->backward_matrix()}),
            sum_of_products({thin, dy}, {a, dense.backward_matrix()})));
        EXPECT_TRUE(at::equal(packed->forward_wide(x.to(at::kFloat)), dense.forward_wide(x.to(at::kFloat))));
      }
    }
  }
}

TEST(PrepackedWeight, IsUsedAsItIsOnceItHasChanged) {
  if (!can_prepack_weights(at::kFloat)) {
    GTEST_SKIP() << "no kernel reads packed weights here";
  }
  at::Tensor w = at::ones({32, 32});
  const auto packed = prepack_weight(w);
  const at::Tensor x = at::ones({16, 32});
  w.fill_(2.0);
  EXPECT_TRUE(at::equal(packed->forward(x), at::full({16, 32}, 64.0)));
  w.set_data(at::full({32, 32}, 3.0));
  EXPECT_TRUE(at::equal(packed->backward(x), at::full({16, 32}, 96.0)));
}

TEST(PrepackedWeight, RefusesWhatItCannotHold) {
  EXPECT_THROW(prepack_weight(at::ones({4, 4}, at::kLong)), c10::ValueError);
  EXPECT_THROW(prepack_weight(at::ones({4})), c10::ValueError);
  EXPECT_THROW(prepack_weight(at::ones({4, 4}).set_requires_grad(true)), c10::ValueError);
  const c10::InferenceMode inference;
  EXPECT_THROW(prepack_weight(at::ones({4, 4})), c10::ValueError);
}

TEST(SumOfProducts, TellsAutogradThatItWrote) {
  for (const int64_t rows : {4, 64}) {
    at::Tensor y = at::ones({rows, 16});
    const auto before = y._version();
    sum_of_products_(y, {at::ones({rows, 8})}, {at::ones({8, 16})});
    EXPECT_NE(y._version(), before) << rows;
  }
}

// Without the compiler's flag for OpenMP, LibTorch's template for parallel loops is an ordinary loop.
TEST(ParallelFor, RunsOnSeveralThreads) {
  const int threads = at::get_num_threads();
  at::set_num_threads(2);
  std::atomic<int> others = 0;
  const auto caller = std::this_thread::get_id();
  detail::parallel_for(2, 1, [&](int64_t begin, int64_t end) {
    EXPECT_EQ(end - begin, 1);
    others += std::this_thread::get_id() != caller ? 1 : 0;
  });
  EXPECT_EQ(others, 1);
  at::set_num_threads(threads);
}

} // namespace
} // namespace rora::ops
