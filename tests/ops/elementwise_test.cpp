#include "support/gradcheck.h"

#include <rora/ops/rms_norm.h>
#include <rora/ops/rotary_embedding.h>
#include <rora/ops/swiglu.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace rora::ops {
namespace {

using rora::testing::gradient_error;
using rora::testing::relative_error;

at::Tensor random(at::IntArrayRef sizes) {
  return at::randn(sizes, at::kDouble);
}

TEST(RMSNorm, IsItsEquation) {
  const at::Tensor x = random({2, 3, 8}), weight = random({8});
  const at::Tensor expected = weight * x / (x.square().mean(-1, true) + 1e-3).sqrt();
  EXPECT_LT(relative_error(rms_norm(x, weight, 1e-3), expected), 1e-14);
}

TEST(RMSNorm, PassesGradcheckInDouble) {
  const auto function = [](const std::vector<at::Tensor>& in) -> std::vector<at::Tensor> {
    return {rms_norm(in[0], in[1], 1e-3)};
  };
  EXPECT_LT(gradient_error(function, {random({2, 3, 8}), random({8})}), 1e-7);
}

TEST(RMSNorm, ComputesBfloat16InsideInFloat) {
  // The mean square of 1000 is beyond bf16's whole numbers: an inner bf16 would be off by its rounding.
  const at::Tensor x = at::linspace(900, 1000, 64).to(at::kBFloat16).unsqueeze(0);
  const at::Tensor weight = at::ones({64}, at::kBFloat16);
  const at::Tensor exact = rms_norm(x.to(at::kDouble), weight.to(at::kDouble), 1e-6).to(at::kBFloat16);
  EXPECT_TRUE(at::equal(rms_norm(x, weight, 1e-6), exact));
}

TEST(AddRMSNorm, IsTheNormOfTheSumBitForBit) {
  at::manual_seed(2);
  for (const auto dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    for (const int64_t size : {1, 15, 64, 100}) {
      const at::Tensor x = random({2, 3, size}).to(dtype), weight = random({size}).to(dtype);
      const at::Tensor added = random({3, 2, size}).to(dtype).transpose(0, 1);
      const auto [sum, y] = add_rms_norm(x, added, weight, 1e-3);
      EXPECT_TRUE(at::equal(sum, x + added)) << dtype << " " << size;
      EXPECT_TRUE(at::equal(y, rms_norm(x + added, weight, 1e-3))) << dtype << " " << size;
    }
  }
}

TEST(AddRMSNorm, PassesGradcheckInDouble) {
  const auto both = [](const std::vector<at::Tensor>& in) -> std::vector<at::Tensor> {
    const auto [sum, y] = add_rms_norm(in[0], in[1], in[2], 1e-3);
    return {sum, y};
  };
  const std::vector<at::Tensor> inputs{random({2, 3, 8}), random({2, 3, 8}), random({8})};
  EXPECT_LT(gradient_error(both, inputs), 1e-7);
  EXPECT_LT(gradient_error([&](const auto& in) { return std::vector<at::Tensor>{both(in)[1]}; }, inputs), 1e-7);
  const auto sum = [&](const auto& in) { return std::vector<at::Tensor>{both({in[0], in[1], inputs[2]})[0]}; };
  EXPECT_LT(gradient_error(sum, {inputs[0], inputs[1]}), 1e-7);
}

TEST(AddRMSNorm, WithNothingAddedGivesXBack) {
  const at::Tensor x = random({3, 8}), weight = random({8});
  const auto [sum, y] = add_rms_norm(x, {}, weight, 1e-3);
  EXPECT_TRUE(at::equal(sum, x));
  EXPECT_TRUE(at::equal(y, rms_norm(x, weight, 1e-3)));
  const auto both = [](const std::vector<at::Tensor>& in) -> std::vector<at::Tensor> {
    const auto [sum, y] = add_rms_norm(in[0], {}, in[1], 1e-3);
    return {sum, y};
  };
  EXPECT_LT(gradient_error(both, {x, weight}), 1e-7);
}

TEST(AddRMSNorm, LeavesOutGradientsThatAreNotWanted) {
  const at::Tensor x = random({3, 8}), added = random({3, 8}).requires_grad_(), weight = random({8});
  const auto [sum, y] = add_rms_norm(x, added, weight, 1e-3);
  (sum.sum() + y.sum()).backward();
  EXPECT_FALSE(x.grad().defined());
  EXPECT_FALSE(weight.grad().defined());
  EXPECT_TRUE(added.grad().defined());
}

TEST(RotaryEmbedding, TurnsPairsByTheAngle) {
  const at::Tensor x = random({1, 2, 3, 4});
  const at::Tensor angles = random({1, 3, 2});
  const at::Tensor both = at::cat({angles, angles}, -1);
  const at::Tensor turned = rotary_embedding(x, both.cos(), both.sin());
  const auto complex = [](const at::Tensor& t) { return at::complex(t.slice(-1, 0, 2), t.slice(-1, 2)); };
  const at::Tensor expected = complex(x) * at::polar(at::ones_like(angles), angles).unsqueeze(1);
  EXPECT_LT((complex(turned) - expected).abs().max().item<double>(), 1e-14);
}

TEST(RotaryEmbedding, PassesGradcheckInDouble) {
  const at::Tensor angles = random({2, 3, 2});
  const at::Tensor both = at::cat({angles, angles}, -1);
  const auto function = [&](const std::vector<at::Tensor>& in) -> std::vector<at::Tensor> {
    return {rotary_embedding(in[0], both.cos(), both.sin())};
  };
  EXPECT_LT(gradient_error(function, {random({2, 2, 3, 4})}), 1e-7);
}

TEST(ElementwiseOps, RefuseSizesThatDoNotGoTogether) {
  const auto x = [](at::IntArrayRef sizes) { return at::randn(sizes); };
  EXPECT_THROW(rms_norm(x({3, 8}), x({1}), 1e-5), c10::ValueError);
  EXPECT_THROW(rms_norm(x({3, 8}), x({4}), 1e-5), c10::ValueError);
  EXPECT_THROW(rms_norm(x({}), x({1}), 1e-5), c10::ValueError);
  EXPECT_THROW(rms_norm(at::ones({3, 8}, at::kLong), x({8}), 1e-5), c10::ValueError);
  EXPECT_THROW(add_rms_norm(x({3, 8}), x({1, 8}), x({8}), 1e-5), c10::ValueError);
  EXPECT_THROW(rotary_embedding(x({1, 2, 5, 6}), x({1, 4, 6}), x({1, 4, 6})), c10::ValueError);
  EXPECT_THROW(rotary_embedding(x({1, 2, 5, 6}), x({1, 5, 4}), x({1, 5, 4})), c10::ValueError);
  EXPECT_THROW(rotary_embedding(x({3, 2, 5, 6}), x({2, 5, 6}), x({2, 5, 6})), c10::ValueError);
  EXPECT_THROW(rotary_embedding(x({3, 2, 5, 6}), x({3, 5, 6}), x({1, 5, 6})), c10::ValueError);
  EXPECT_THROW(rotary_embedding(x({2, 5, 6}), x({1, 5, 6}), x({1, 5, 6})), c10::ValueError);
  EXPECT_THROW(rotary_embedding(x({1, 2, 5, 3}), x({1, 5, 3}), x({1, 5, 3})), c10::ValueError);
  EXPECT_THROW(swiglu(x({3, 8}), x({1, 8})), c10::ValueError);
}

TEST(SwiGLU, PassesGradcheckInDouble) {
  const auto function = [](const std::vector<at::Tensor>& in) -> std::vector<at::Tensor> {
    return {swiglu(in[0], in[1])};
  };
  const at::Tensor gate = random({3, 5}), up = random({3, 5});
  EXPECT_LT(relative_error(swiglu(gate, up), gate * at::sigmoid(gate) * up), 1e-14);
  EXPECT_LT(gradient_error(function, {gate, up}), 1e-7);
}

} // namespace
} // namespace rora::ops
