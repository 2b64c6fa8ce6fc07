// Operations that write the gradients of their inputs where these are to lie side by side.

#include <rora/core/gradient_rows.h>
#include <rora/ops/rms_norm.h>
#include <rora/ops/rms_norm_shrink.h>
#include <rora/ops/rotary_embedding.h>
#include <rora/ops/swiglu.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <functional>
#include <vector>

namespace rora::ops {
namespace {

using Rows = c10::intrusive_ptr<GradientRows>;

/// The gradients of `inputs` from a fixed one of `run`'s result, with rows and without: they are the same, and the
/// first `in_place` of those with rows lie there.
void expect_the_same(
    const std::vector<at::Tensor>& inputs, const std::vector<int64_t>& widths, size_t in_place,
    const std::function<at::Tensor(const Rows&)>& run) {
  const auto backward = [&](const Rows& rows) {
    const at::Tensor y = run(rows);
    at::manual_seed(11);
    return torch::autograd::grad({y}, inputs, {at::randn(y.sizes()).to(y.scalar_type())}, /*retain_graph=*/true);
  };
  const auto expected = backward({});
  const auto rows = c10::make_intrusive<GradientRows>(widths);
  const auto found = backward(rows);
  const GradientRows::Taken taken = rows->take();
  ASSERT_EQ(taken.places.size(), widths.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    EXPECT_TRUE(at::equal(found[i], expected[i])) << i;
    if (i < in_place) {
      EXPECT_TRUE(taken.given[i]);
      EXPECT_EQ(found[i].const_data_ptr(), taken.places[i].const_data_ptr());
    }
  }
}

at::Tensor leaf(at::IntArrayRef sizes, at::ScalarType dtype) {
  return at::randn(sizes, at::kDouble).to(dtype).set_requires_grad(true);
}

TEST(GradientPlace, OfSwiGLUHoldsWhatItsGradientsAre) {
  at::manual_seed(1);
  for (const auto dtype : {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf}) {
    const std::vector<at::Tensor> in{leaf({2, 3, 40}, dtype), leaf({2, 3, 40}, dtype)};
    expect_the_same(in, {40, 40, 8}, 2, [&](const Rows& rows) { return swiglu(in[0], in[1], rows); });
  }
}

TEST(GradientPlace, OfRotaryEmbeddingHoldsWhatItsGradientIs) {
  at::manual_seed(2);
  for (const auto dtype : {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf}) {
    const at::Tensor flat = leaf({2, 5, 3 * 16}, dtype), angles = at::randn({1, 5, 8}).repeat({1, 1, 2});
    const at::Tensor cos = angles.cos().to(dtype), sin = angles.sin().to(dtype);
    expect_the_same({flat}, {48, 8}, 1, [&](const Rows& rows) {
      return rotary_embedding(flat.view({2, 5, 3, 16}).transpose(1, 2), cos, sin, {rows, 0});
    });
  }
}

TEST(GradientPlace, OfAddRMSNormHoldsWhatTheGradientOfBothIs) {
  at::manual_seed(3);
  for (const auto dtype : {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf}) {
    const at::Tensor x = leaf({2, 3, 40}, dtype), added = leaf({2, 3, 40}, dtype), weight = leaf({40}, dtype);
    const at::Tensor a = at::randn({4, 40}).to(dtype);
    for (const bool shrinks : {false, true}) {
      for (const bool reads_sum : {false, true}) {
        expect_the_same({added, x, weight}, {40, 8}, 1, [&](const Rows& rows) {
          at::Tensor sum, y;
          if (shrinks) {
            NormedAndShrunk both = add_rms_norm_shrink(x, added, weight, 1e-5, a, 0.5, {rows, 0});
            sum = both.sum, y = both.y;
          } else {
            std::tie(sum, y) = add_rms_norm(x, added, weight, 1e-5, {rows, 0});
          }
          return reads_sum ? y + sum : y;
        });
      }
    }
  }
}

TEST(GradientPlace, OfAnotherWidthIsLeftAlone) {
  const at::Tensor gate = leaf({3, 40}, at::kFloat), up = leaf({3, 40}, at::kFloat);
  const auto rows = c10::make_intrusive<GradientRows>(std::vector<int64_t>{40, 32});
  const auto expected = torch::autograd::grad({swiglu(gate, up).sum()}, {gate, up});
  const auto found = torch::autograd::grad({swiglu(gate, up, rows).sum()}, {gate, up});
  EXPECT_TRUE(at::equal(found[0], expected[0]));
  EXPECT_TRUE(at::equal(found[1], expected[1]));
}

} // namespace
} // namespace rora::ops
