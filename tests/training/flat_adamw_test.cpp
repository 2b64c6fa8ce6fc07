#include "support/gradcheck.h"

#include <rora/training/adamw.h>
#include <rora/training/flat_parameters.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/optim/adamw.h>

namespace rora {
namespace {

std::vector<at::Tensor> parameters(at::ScalarType dtype = at::kDouble) {
  at::manual_seed(21);
  return {
      at::randn({3, 4}, dtype).set_requires_grad(true),
      at::randn({5}, dtype).set_requires_grad(true),
      at::randn({2, 2}, dtype).set_requires_grad(true)};
}

at::Tensor loss(const std::vector<at::Tensor>& p) {
  return p[0].square().sum() + (p[1] * p[1].detach().sin()).sum() + p[2].cos().sum();
}

TEST(FlatParameters, KeepValuesAndTakeGradientsInPlace) {
  const auto expected = parameters();
  auto own = parameters();
  FlatParameters flat(own);
  for (size_t i = 0; i < own.size(); ++i) {
    EXPECT_TRUE(at::equal(own[i], expected[i]));
  }
  loss(own).backward();
  loss(expected).backward();
  EXPECT_TRUE(at::equal(
      flat.gradients(),
      at::cat({expected[0].grad().flatten(), expected[1].grad().flatten(), expected[2].grad().flatten()})));
  flat.zero_grad();
  EXPECT_EQ(own[0].grad().abs().sum().item<double>(), 0.0);
  flat.values().zero_();
  EXPECT_EQ(own[2].abs().sum().item<double>(), 0.0);
}

TEST(FlatParameters, ClipByTheirWholeNorm) {
  auto own = parameters();
  FlatParameters flat(own);
  loss(own).backward();
  const at::Tensor before = flat.gradients().clone();
  const double norm = before.norm().item<double>();
  EXPECT_DOUBLE_EQ(flat.clip_gradients(0.0).item<double>(), norm);
  EXPECT_DOUBLE_EQ(flat.clip_gradients(2 * norm).item<double>(), norm);
  EXPECT_TRUE(at::equal(flat.gradients(), before));
  EXPECT_DOUBLE_EQ(flat.clip_gradients(norm / 4).item<double>(), norm);
  EXPECT_LT(rora::testing::relative_error(flat.gradients(), before * (norm / 4) / (norm + 1e-6)), 1e-14);
}

TEST(FlatParameters, RefuseNothingAndMixedDtypes) {
  EXPECT_THROW(FlatParameters({}), std::invalid_argument);
  EXPECT_THROW(FlatParameters({at::ones({1}), at::ones({1}, at::kDouble)}), std::invalid_argument);
}

TEST(AdamW, TakesTheStepsOfTorchsOptimiser) {
  for (const double decay : {0.0, 0.1}) {
    const auto theirs = parameters();
    auto own = parameters();
    torch::optim::AdamW reference(theirs, torch::optim::AdamWOptions(0.03).weight_decay(decay));
    FlatParameters flat(own);
    AdamW optimizer(flat, AdamWOptions().weight_decay(decay));
    for (int step = 0; step < 20; ++step) {
      reference.zero_grad();
      loss(theirs).backward();
      reference.step();
      flat.zero_grad();
      loss(own).backward();
      optimizer.step(0.03);
    }
    for (size_t i = 0; i < own.size(); ++i) {
      EXPECT_LT(rora::testing::relative_error(own[i].detach(), theirs[i].detach()), 1e-12);
    }
  }
}

TEST(AdamW, TakesTheSameStepsOnAGpu) {
  if (!at::hasCUDA()) {
    GTEST_SKIP() << "there is no CUDA device";
  }
  const auto run = [](at::Device device) {
    auto own = parameters();
    for (at::Tensor& each : own) {
      each = each.detach().to(device).set_requires_grad(true);
    }
    FlatParameters flat(own);
    AdamW optimizer(flat);
    for (int step = 0; step < 5; ++step) {
      flat.zero_grad();
      loss(own).backward();
      optimizer.step(0.03);
    }
    return flat.values().cpu();
  };
  EXPECT_LT(rora::testing::relative_error(run(at::kCUDA), run(at::kCPU)), 1e-12);
}

TEST(FlatParameters, ClipOnAGpuAsOnTheCpu) {
  if (!at::hasCUDA()) {
    GTEST_SKIP() << "there is no CUDA device";
  }
  for (const double max_norm : {0.0, 0.5, 1e6}) {
    const auto clipped = [&](at::Device device) {
      auto own = parameters();
      for (at::Tensor& each : own) {
        each = each.detach().to(device).set_requires_grad(true);
      }
      FlatParameters flat(own);
      loss(own).backward();
      const double norm = flat.clip_gradients(max_norm).item<double>();
      return at::cat({flat.gradients().cpu(), at::full({1}, norm, at::kDouble)});
    };
    EXPECT_LT(rora::testing::relative_error(clipped(at::kCUDA), clipped(at::kCPU)), 1e-12) << max_norm;
  }
}

TEST(AdamW, AnUpdateThatIsLeftOutChangesNothing) {
  auto own = parameters(at::kFloat);
  FlatParameters flat(own);
  AdamW optimizer(flat);
  loss(own).backward();
  optimizer.step(0.1, at::zeros({}));
  const at::Tensor values = flat.values().clone(), average = optimizer.exp_avg.clone();
  flat.gradients().fill_(std::numeric_limits<float>::quiet_NaN());
  optimizer.step(0.1, at::ones({}));
  EXPECT_TRUE(at::equal(flat.values(), values));
  EXPECT_TRUE(at::equal(optimizer.exp_avg, average));
  flat.gradients().fill_(1.0);
  optimizer.step(0.1, at::zeros({}));
  EXPECT_FALSE(at::equal(flat.values(), values));
}

TEST(AdamW, AChangedParameterHasANewVersion) {
  auto own = parameters();
  FlatParameters flat(own);
  AdamW optimizer(flat);
  const auto before = own[1]._version();
  optimizer.step(0.1);
  EXPECT_NE(own[1]._version(), before);
}

} // namespace
} // namespace rora
