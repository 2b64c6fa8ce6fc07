#include "support/gradcheck.h"
#include "support/tiny_llama.h"

#include <rora/adapters/attach.h>
#include <rora/adapters/gradient_capture.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

namespace rora {
namespace {

using rora::testing::relative_error;
using rora::testing::tiny_llama;
using ::testing::HasSubstr;

const std::vector<std::string> kModules{"model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"};

/// The mean loss of a batch of tokens that follow from its number.
at::Tensor batch_loss(CausalLM model, int64_t batch) {
  const at::Tensor ids = (at::arange(12, at::kLong) * (batch + 3)).remainder(32).view({2, 6});
  const LossSum loss = model->loss({ids, {}, {}}, ids);
  return loss.sum / static_cast<double>(loss.tokens);
}

at::Tensor weight_of(torch::nn::Module& model, const std::string& module) {
  return model.named_parameters()[module + ".weight"];
}

/// The mean of the gradients that autograd leaves in `grad()`.
at::Tensor expected_gradient(DecoderForCausalLM model, const std::string& module, int64_t batches) {
  at::Tensor weight = weight_of(*model, module);
  weight.set_requires_grad(true);
  at::Tensor sum = at::zeros(weight.sizes());
  for (int64_t batch = 0; batch < batches; ++batch) {
    weight.mutable_grad().reset();
    batch_loss(model, batch).backward();
    sum += weight.grad().to(at::kFloat);
  }
  return sum / static_cast<double>(batches);
}

class Captured : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(Captured, GradientsAreTheMeanOfThoseOfTheBatchesInFloat32) {
  auto model = tiny_llama();
  model->to(GetParam());
  const auto statistics =
      capture_gradients(*model, kModules, 3, [&](int64_t batch) { batch_loss(model, batch).backward(); });
  ASSERT_EQ(statistics.size(), kModules.size());
  for (const std::string& module : kModules) {
    const at::Tensor& gradient = statistics.at(module).gradient;
    EXPECT_EQ(gradient.scalar_type(), at::kFloat);
    EXPECT_TRUE(gradient.is_cpu());
    auto other = tiny_llama();
    other->to(GetParam());
    EXPECT_LT(relative_error(gradient, expected_gradient(other, module, 3)), 1e-6) << module;
  }
}

INSTANTIATE_TEST_SUITE_P(Dtypes, Captured, ::testing::Values(at::kFloat, at::kBFloat16, at::kDouble));

TEST(CaptureGradients, HoldsNoGradientBehindABackward) {
  auto model = tiny_llama();
  capture_gradients(*model, kModules, 2, [&](int64_t batch) {
    batch_loss(model, batch).backward();
    for (const at::Tensor& parameter : model->parameters()) {
      EXPECT_FALSE(parameter.grad().defined());
    }
  });
}

TEST(CaptureGradients, LeavesGradientsAndWhatRequiresThemAsTheyWere) {
  auto model = tiny_llama();
  attach_adapters(*model, AdapterOptions().low_rank(LowRankOptions().rank(2)));
  at::Tensor chosen = weight_of(*model, kModules[0]);
  chosen.set_requires_grad(true); // and one that is trained itself
  batch_loss(model, 0).backward();
  std::vector<at::Tensor> before;
  std::vector<bool> required;
  for (const at::Tensor& parameter : model->parameters()) {
    before.push_back(parameter.grad().defined() ? parameter.grad().clone() : at::Tensor());
    required.push_back(parameter.requires_grad());
  }
  const auto expect_as_before = [&] {
    size_t i = 0;
    for (const at::Tensor& parameter : model->parameters()) {
      EXPECT_EQ(parameter.requires_grad(), required[i]);
      ASSERT_EQ(parameter.grad().defined(), before[i].defined());
      EXPECT_TRUE(!before[i].defined() || at::equal(parameter.grad(), before[i]));
      ++i;
    }
  };
  const auto run = [&](int64_t batch) { batch_loss(model, batch).backward(); };
  capture_gradients(*model, kModules, 2, run);
  expect_as_before();
  EXPECT_THROW(
      capture_gradients(
          *model, kModules, 2,
          [&](int64_t batch) {
            run(batch);
            throw std::runtime_error("no more data");
          }),
      std::runtime_error);
  expect_as_before();
  chosen.mutable_grad().reset();
  batch_loss(model, 1).backward();
  EXPECT_TRUE(chosen.grad().defined()) << "a backward behind it is as any other";
}

TEST(CaptureGradients, RefusesWhatGivesNoGradient) {
  auto model = tiny_llama();
  const auto refusal = [&](const std::vector<std::string>& modules, int64_t batches, const auto& run) {
    try {
      capture_gradients(*model, modules, batches, run);
    } catch (const c10::ValueError& error) {
      return std::string(error.what_without_backtrace());
    }
    return std::string("nothing was thrown");
  };
  const auto run = [&](int64_t batch) { batch_loss(model, batch).backward(); };
  EXPECT_EQ(refusal({"model.norm"}, 1, run), "'model.norm' is no projection of the model");
  EXPECT_EQ(refusal({"q_proj"}, 1, run), "'q_proj' is no projection of the model");
  EXPECT_THAT(refusal(kModules, 0, run), HasSubstr("at least 1 batch, not 0"));
  EXPECT_EQ(refusal({kModules[1]}, 1, [](int64_t) {}), kModules[1] + ": no batch gave its weight a gradient");
  attach_adapters(*model, AdapterOptions().low_rank(LowRankOptions().rank(2)));
  merge_adapters(*model);
  EXPECT_THAT(refusal(kModules, 1, run), HasSubstr(kModules[0] + ": unmerge its adapter"));
}

} // namespace
} // namespace rora
