#include <rora/core/low_rank_matrices.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

namespace rora::ops::detail {
namespace {

const LowRankForm kGpu{at::kBFloat16, 8};

std::vector<at::Tensor> random(const std::vector<int64_t>& ranks, int64_t size, bool by_rows) {
  std::vector<at::Tensor> matrices;
  for (const int64_t rank : ranks) {
    matrices.push_back(by_rows ? at::randn({rank, size}) : at::randn({size, rank}));
  }
  return matrices;
}

bool is_aligned(const at::Tensor& x) {
  constexpr int64_t kBytes = 16;
  return reinterpret_cast<uintptr_t>(x.const_data_ptr()) % kBytes == 0 &&
      x.stride(0) * x.element_size() % kBytes == 0 && x.stride(1) == 1;
}

TEST(LowRankForm, OfTheCpuIsEachMatrixAsItIs) {
  const LowRankForm form = LowRankForm::of_device(at::ones({2, 2}, at::kBFloat16));
  EXPECT_FALSE(form.dtype);
  for (const int64_t rank : {1, 7, 8, 129}) {
    EXPECT_EQ(form.padded(rank), rank);
  }
  const at::Tensor a = at::randn({3, 5}), b = at::randn({5, 3});
  EXPECT_TRUE(vstack({a}, form).is_same(a));
  EXPECT_TRUE(padded_columns({b}, form)[0].is_same(b));
  EXPECT_TRUE(hstack({b}, form).is_same(b));
  EXPECT_TRUE(at::equal(vstack({a, a}, form), at::cat({a, a})));
}

TEST(LowRankForm, OfOtherDevicesHasRanksInMultiplesOfEight) {
  const LowRankForm form = LowRankForm::of_device(at::empty({2, 2}, at::TensorOptions(at::kMeta).dtype(at::kBFloat16)));
  EXPECT_EQ(form.dtype, at::kBFloat16);
  EXPECT_EQ(form.padded(1), 8);
  EXPECT_EQ(form.padded(7), 8);
  EXPECT_EQ(form.padded(8), 8);
  EXPECT_EQ(form.padded(9), 16);
  EXPECT_EQ(form.padded(256), 256);
}

TEST(LowRankMatrices, AreAlignedWithZerosBetween) {
  at::manual_seed(1);
  const std::vector<std::vector<int64_t>> all_ranks{{1}, {12}, {8, 16}, {5, 8, 17}, {4, 4, 4}};
  for (const std::vector<int64_t>& ranks : all_ranks) {
    const auto a = random(ranks, 40, /*by_rows=*/true), b = random(ranks, 24, /*by_rows=*/false);
    const at::Tensor all = vstack(a, kGpu), parts = hstack(b, kGpu);
    const auto multiples = padded_columns(b, kGpu);
    EXPECT_EQ(all.scalar_type(), at::kBFloat16);
    EXPECT_EQ(parts.scalar_type(), at::kFloat) << "Ŝ and its gradients have their dtype already";
    int64_t begin = 0;
    for (size_t i = 0; i < ranks.size(); ++i) {
      const int64_t rank = ranks[i], zeros = kGpu.padded(rank) - rank;
      EXPECT_TRUE(at::equal(all.narrow(0, begin, rank), a[i].to(at::kBFloat16)));
      EXPECT_TRUE(at::equal(parts.narrow(1, begin, rank), b[i]));
      EXPECT_TRUE(at::equal(multiples[i].narrow(1, 0, rank), b[i].to(at::kBFloat16)));
      EXPECT_EQ(all.narrow(0, begin + rank, zeros).count_nonzero().item<int64_t>(), 0);
      EXPECT_EQ(parts.narrow(1, begin + rank, zeros).count_nonzero().item<int64_t>(), 0);
      EXPECT_EQ(multiples[i].narrow(1, rank, zeros).count_nonzero().item<int64_t>(), 0);
      EXPECT_TRUE(is_aligned(all.narrow(0, begin, rank)) && is_aligned(multiples[i]));
      EXPECT_TRUE(is_aligned(parts.to(at::kBFloat16).narrow(1, begin, rank)));
      begin += kGpu.padded(rank);
    }
    EXPECT_EQ(all.size(0), begin);
    EXPECT_EQ(parts.size(1), begin);
  }
}

TEST(LowRankMatrices, ThatNeedNothingAreNotCopied) {
  const at::Tensor a = at::randn({16, 8}), b = at::randn({8, 16}).to(at::kBFloat16), c = at::randn({8, 16});
  EXPECT_TRUE(vstack({a}, kGpu).is_same(a)) << "one product casts it";
  const auto multiples = padded_columns({b, c}, kGpu);
  EXPECT_TRUE(multiples[0].is_same(b));
  EXPECT_TRUE(at::equal(multiples[1], c.to(at::kBFloat16)));
  EXPECT_TRUE(hstack({c}, kGpu).is_same(c));
}

TEST(LowRankMatrices, ThatLieTogetherAlreadyAreNotCopied) {
  const LowRankForm form;
  const at::Tensor rows = at::randn({12, 5}), columns = at::randn({5, 12});
  const std::vector<at::Tensor> above{rows.narrow(0, 0, 3), rows.narrow(0, 3, 7), rows.narrow(0, 10, 2)};
  EXPECT_EQ(vstack(above, form).const_data_ptr(), rows.const_data_ptr());
  EXPECT_TRUE(at::equal(vstack(above, form), rows));
  const std::vector<at::Tensor> beside{columns.narrow(1, 0, 3), columns.narrow(1, 3, 7), columns.narrow(1, 10, 2)};
  EXPECT_EQ(hstack(beside, form).const_data_ptr(), columns.const_data_ptr());
  EXPECT_TRUE(at::equal(hstack(beside, form), columns));

  const auto parts = empty_hstacked(5, {3, 7, 2}, form, columns.options());
  EXPECT_TRUE(are_hstacked(parts));
  EXPECT_FALSE(empty_hstacked(5, {3, 7, 2}, kGpu, columns.options())[0].defined());
}

TEST(LowRankMatrices, ThatLieOtherwiseAreCopied) {
  const LowRankForm form;
  const at::Tensor rows = at::randn({12, 5}), columns = at::randn({5, 12});
  const std::vector<std::vector<at::Tensor>> all_above{
      {rows.narrow(0, 3, 7), rows.narrow(0, 0, 3)}, // in another order
      {rows.narrow(0, 0, 3), rows.narrow(0, 4, 2)}, // with rows between
      {rows.narrow(0, 0, 3), rows.clone().narrow(0, 3, 4)}, // elsewhere
      {rows.narrow(0, 0, 3), rows.narrow(0, 0, 3)}, // the same twice
      {at::randn({3, 5}), at::randn({5, 5}).t()}};
  for (const auto& each : all_above) {
    EXPECT_TRUE(at::equal(vstack(each, form), at::cat(each)));
  }
  const std::vector<std::vector<at::Tensor>> all_beside{
      {columns.narrow(1, 3, 7), columns.narrow(1, 0, 3)},
      {columns.narrow(1, 0, 3), columns.narrow(1, 3, 7)}, // not all of the columns
      {columns.narrow(1, 0, 5), columns.clone().narrow(1, 5, 7)},
      {columns.narrow(1, 0, 6), columns.narrow(1, 0, 6)}};
  for (const auto& each : all_beside) {
    EXPECT_TRUE(at::equal(hstack(each, form), at::cat(each, 1)));
  }
}

} // namespace
} // namespace rora::ops::detail
