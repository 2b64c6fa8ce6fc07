#include <ops/cuda/fastest_form.h>

#include <gtest/gtest.h>

#include <limits>
#include <stdexcept>
#include <unordered_set>
#include <vector>

namespace rora {
namespace {

using ops::detail::SumShape;
using ops::detail::ThinPass;
using ops::detail::ThinShape;
using FastestForms = ops::detail::FastestForms<SumShape>;

TEST(FastestForms, TimeEachShapeOnce) {
  FastestForms forms;
  std::vector<int> timed;
  const std::vector<float> taken{3.0f, std::numeric_limits<float>::infinity(), 1.0f, 2.0f};
  const auto time = [&](int form) {
    timed.push_back(form);
    return taken[static_cast<size_t>(form)];
  };
  SumShape shape;
  shape.rows = 128;
  EXPECT_EQ(forms.choose(shape, 4, /*may_time=*/false, time), 0);
  EXPECT_TRUE(timed.empty());
  EXPECT_EQ(forms.choose(shape, 4, /*may_time=*/true, time), 2);
  EXPECT_EQ(timed, (std::vector<int>{0, 1, 2, 3}));
  EXPECT_EQ(forms.choose(shape, 4, /*may_time=*/true, time), 2);
  EXPECT_EQ(forms.choose(shape, 4, /*may_time=*/false, time), 2) << "what is known is known under capture, too";
  EXPECT_EQ(timed.size(), 4);
  shape.rank = 8;
  EXPECT_EQ(forms.choose(shape, 2, /*may_time=*/true, time), 0);
  EXPECT_EQ(timed.size(), 6);
}

TEST(TunedForms, AreThoseOfTheTableOnAnyDevice) {
  const std::vector<ops::detail::TunedSum> found{
      {8192, 4096, 4096, 16, true, false, 2}, {8192, 4096, 4096, 16, false, false, 1}};
  const ops::detail::TunedForms<ops::detail::TunedSum> forms(found);
  SumShape shape{8192, 4096, 4096, 16, true, false, /*device=*/3};
  EXPECT_EQ(forms.of(shape), 2);
  shape.transposed = false;
  EXPECT_EQ(forms.of(shape), 1);
  shape.accumulates = true;
  EXPECT_EQ(forms.of(shape), 0) << "is not in the table";
  EXPECT_EQ(ops::detail::TunedForms<ops::detail::TunedSum>({}).of(shape), 0);
  const ops::detail::TunedForms<ops::detail::TunedThin> thin({{ThinPass::kGradientB, 8192, 4096, 64, 1}});
  EXPECT_EQ(thin.of({ThinPass::kGradientB, 8192, 4096, 64, true, false, /*device=*/2}), 1);
  EXPECT_EQ(thin.of({ThinPass::kGradientA, 8192, 4096, 64}), 0);
  EXPECT_EQ(thin.of({ThinPass::kGradientB, 8192, 4096, 64, /*in_bfloat16=*/false}), 0);
  EXPECT_EQ(thin.of({ThinPass::kGradientB, 8192, 4096, 64, true, /*in_part=*/true}), 0);
}

TEST(FastestForms, TakeTheFirstWhereNoneWorks) {
  FastestForms forms;
  EXPECT_EQ(forms.choose({}, 3, true, [](int) { return std::numeric_limits<float>::infinity(); }), 0);
}

TEST(FastestForms, ForgetWhatFailed) {
  FastestForms forms;
  const auto fail = [](int) -> float { throw std::runtime_error("no device"); };
  EXPECT_THROW(forms.choose({}, 2, true, fail), std::runtime_error);
  EXPECT_EQ(forms.choose({}, 2, true, [](int form) { return form == 1 ? 1.0f : 2.0f; }), 1);
}

TEST(SumShape, IsAnotherWhereAnyOfItsPartsIs) {
  std::vector<SumShape> shapes(8);
  shapes[1].rows = shapes[2].columns = shapes[3].depth = shapes[4].rank = shapes[5].device = 1;
  shapes[6].transposed = shapes[7].accumulates = true;
  std::unordered_set<size_t> hashes;
  for (size_t i = 0; i < shapes.size(); ++i) {
    hashes.insert(ops::detail::ShapeHash<SumShape>()(shapes[i]));
    for (size_t j = 0; j < shapes.size(); ++j) {
      EXPECT_EQ(shapes[i] == shapes[j], i == j) << i << " " << j;
    }
  }
  EXPECT_EQ(hashes.size(), shapes.size());
}

TEST(ThinShape, IsAnotherWhereAnyOfItsPartsIs) {
  std::vector<ThinShape> shapes(8);
  shapes[1].rows = shapes[2].columns = shapes[3].rank = shapes[4].device = 1;
  shapes[5].pass = ThinPass::kGradientA;
  shapes[6].in_bfloat16 = false;
  shapes[7].in_part = true;
  std::unordered_set<size_t> hashes;
  for (size_t i = 0; i < shapes.size(); ++i) {
    hashes.insert(ops::detail::ShapeHash<ThinShape>()(shapes[i]));
    for (size_t j = 0; j < shapes.size(); ++j) {
      EXPECT_EQ(shapes[i] == shapes[j], i == j) << i << " " << j;
    }
  }
  EXPECT_EQ(hashes.size(), shapes.size());
}

} // namespace
} // namespace rora
