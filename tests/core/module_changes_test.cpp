#include "modules_support.h"
#include "support/gradcheck.h"
#include "support/principal.h"

#include <rora/core/rora_linear.h>

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/adam.h>
#include <torch/optim/sgd.h>
#include <torch/serialize.h>

#include <functional>
#include <memory>
#include <sstream>
#include <vector>

// What changes a layer while others look: optimisers, operations in place, and adapters that come, go and merge between
// a forward pass and its backward pass.
namespace rora {
namespace {

using rora::testing::ModulesTest;
using rora::testing::relative_error;
using rora::testing::small;
using rora::testing::trained;
using ::testing::HasSubstr;

RoRALinearOptions beginning_with_principal() {
  return RoRALinearOptions(6, 4).low_rank(LowRankOptions().rank(2).initializer(std::make_shared<testing::Principal>()));
}

/// A fresh layer's answer, whose norms are of the values that its tensors have now.
at::Tensor computed_anew(const RoRALinear& layer, const at::Tensor& x) {
  return std::dynamic_pointer_cast<RoRALinearImpl>(layer->clone())->forward(x);
}

// SGD writes through `.data()`, which raises no version.
TEST_F(ModulesTest, ADoRALayerIsItselfWhateverOptimiserTrainsIt) {
  for (const bool trains_weight : {false, true}) {
    for (const bool by_adam : {false, true}) {
      RoRALinear layer = trained(RoRALinear(small().dora(true)));
      layer->weight.set_requires_grad(trains_weight);
      std::vector<at::Tensor> parameters = layer->adapter_parameters();
      if (trains_weight) {
        parameters.push_back(layer->weight);
      }
      std::unique_ptr<torch::optim::Optimizer> optimizer;
      if (by_adam) {
        optimizer = std::make_unique<torch::optim::Adam>(parameters, torch::optim::AdamOptions(0.05));
      } else {
        optimizer = std::make_unique<torch::optim::SGD>(parameters, torch::optim::SGDOptions(0.05));
      }
      const auto evaluated = [&] {
        at::NoGradGuard no_grad;
        layer->eval();
        const at::Tensor y = layer->forward(x);
        layer->train();
        return y;
      };
      for (int step = 0; step < 3; ++step) {
        optimizer->zero_grad();
        const at::Tensor loss = (layer->forward(x) - 1).square().mean();
        evaluated(); // keeps a norm
        loss.backward();
        optimizer->step();
        const at::Tensor kept = evaluated();
        EXPECT_TRUE(at::equal(kept, computed_anew(layer, x))) << by_adam << trains_weight << step;
        EXPECT_TRUE(at::equal(layer->forward(x), kept));
      }
      const at::Tensor before = layer->forward(x).detach();
      layer->merge();
      EXPECT_LT(relative_error(layer->forward(x).detach(), before), 1e-5);
    }
  }
}

TEST_F(ModulesTest, OutputsMayBeChangedInPlace) {
  for (const bool dora : {false, true}) {
    RoRALinear layer = trained(RoRALinear(small().dora(dora)));
    torch::nn::Sequential in_place(layer, torch::nn::ReLU(torch::nn::ReLUOptions(true)));
    const at::Tensor input = x.detach().set_requires_grad(true);
    const auto parameters = layer->adapter_parameters();
    std::vector<at::Tensor> inputs{input};
    inputs.insert(inputs.end(), parameters.begin(), parameters.end());
    if (dora) { // whose backward reads the output
      const at::Tensor changed = in_place->forward(input).sum();
      EXPECT_THROW(torch::autograd::grad({changed}, inputs), c10::Error);
      continue;
    }
    const auto found = torch::autograd::grad({in_place->forward(input).sum()}, inputs);
    const auto expected = torch::autograd::grad({at::relu(layer->forward(input)).sum()}, inputs);
    for (size_t i = 0; i < found.size(); ++i) {
      EXPECT_TRUE(at::equal(found[i], expected[i])) << i;
    }
    at::Tensor y = layer->forward(input);
    y += 1;
    y.mul_(2);
    EXPECT_TRUE(at::equal(y, (layer->forward(input) + 1) * 2));
  }
}

TEST_F(ModulesTest, AGradientIsThatOfTheWeightThatTheForwardPassRead) {
  const std::vector<std::function<RoRALinear()>> makers{
      [] { return trained(RoRALinear(small())); }, [] { return trained(RoRALinear(small().dora(true))); },
      [] { return trained(RoRALinear(beginning_with_principal())); }};
  for (size_t i = 0; i < makers.size(); ++i) {
    RoRALinear layer = makers[i]();
    const at::Tensor input = at::randn({3, layer->in_features()}).set_requires_grad(true);
    const auto gradient_after = [&](const std::function<void()>& between) {
      const at::Tensor y = layer->forward(input).sum();
      between();
      return torch::autograd::grad({y}, {input})[0];
    };
    const at::Tensor expected = gradient_after([] {});
    EXPECT_TRUE(at::equal(gradient_after([&] { layer->merge(); }), expected)) << i;
    layer->unmerge();
    at::Tensor under_guard;
    const at::Tensor y = layer->forward(input).sum();
    {
      DisableAdapters disabled(*layer);
      under_guard = torch::autograd::grad({y}, {input})[0];
    }
    EXPECT_TRUE(at::equal(under_guard, expected)) << i;
    EXPECT_TRUE(at::equal(gradient_after([&] { DisableAdapters disabled(*layer); }), expected)) << i;
  }
}

TEST_F(ModulesTest, AWeightWrittenToBetweenForwardAndBackwardIsNamed) {
  RoRALinear layer = trained(RoRALinear(small()));
  const at::Tensor input = x.detach().set_requires_grad(true);
  const at::Tensor y = layer->forward(input).sum();
  {
    at::NoGradGuard no_grad;
    layer->weight.mul_(2);
  }
  try {
    torch::autograd::grad({y}, {input});
    FAIL();
  } catch (const c10::Error& error) {
    EXPECT_THAT(error.what_without_backtrace(), HasSubstr("was modified by an inplace operation since the forward"));
  }
}

TEST_F(ModulesTest, WhatCannotBeLoadedLeavesTheLayerAsItWas) {
  std::stringstream of_rank_3, of_a_linear;
  torch::save(RoRALinear(RoRALinearOptions(6, 4).rank(3)), of_rank_3);
  {
    torch::serialize::OutputArchive archive; // without a weight
    archive.write("bias", at::zeros({4}));
    archive.save_to(of_a_linear);
  }
  for (RoRALinear layer :
       {trained(RoRALinear(RoRALinearOptions(6, 4).rank(2))),
        trained(RoRALinear(RoRALinearOptions(6, 4).rank(2).dora(true))),
        trained(RoRALinear(beginning_with_principal()))}) {
    const at::Tensor input = at::randn({3, 6});
    const at::Tensor before = layer->forward(input);
    for (std::stringstream* archive : {&of_rank_3, &of_a_linear}) {
      archive->clear();
      archive->seekg(0);
      EXPECT_THROW(torch::load(layer, *archive), c10::Error);
      EXPECT_TRUE(at::equal(layer->forward(input), before));
      EXPECT_EQ(layer->low_rank()->lora_A.sizes(), at::IntArrayRef({2, 6}));
    }
  }
}

TEST_F(ModulesTest, AnAdapterThatCannotBeAttachedLeavesTheOthersAsTheyWere) {
  RoRALinear layer = trained(RoRALinear(small()));
  const at::Tensor before = layer->forward(x);
  for (const bool rewrites : {false, true}) {
    Projection other(at::randn({layer->out_features() + 1, layer->in_features() + 2}));
    LowRankOptions options = LowRankOptions().rank(2);
    if (rewrites) {
      options.initializer(std::make_shared<testing::Principal>());
    }
    const auto adapter = std::make_shared<LowRankAdapter>(*other, options);
    EXPECT_THROW(layer->attach("other", adapter), c10::ValueError);
    EXPECT_EQ(layer->adapter("other"), nullptr);
    EXPECT_EQ(layer->active_name(), RoRALinearImpl::kAdapterName);
    EXPECT_TRUE(at::equal(layer->forward(x), before));
    EXPECT_TRUE(layer->low_rank()->lora_A.requires_grad());
  }
}

TEST_F(ModulesTest, AnAttachedAdapterTrainsOnlyWhereItsLayerDoes) {
  RoRALinear layer(small());
  for (const bool training : {false, true}) {
    layer->train(training);
    const auto adapter = std::make_shared<LowRankAdapter>(*layer, LowRankOptions().rank(2).dropout(0.5));
    layer->attach(training ? "training" : "evaluating", adapter);
    EXPECT_EQ(adapter->is_training(), training);
  }
}

TEST_F(ModulesTest, OptionsOutOfRangeLeaveALinearAsItWas) {
  torch::nn::Linear linear(6, 4);
  EXPECT_THROW(RoRALinear(linear, LowRankOptions().rank(-1)), c10::ValueError);
  EXPECT_THROW(RoRALinear(linear, LowRankOptions().dropout(2.0)), c10::ValueError);
  EXPECT_TRUE(linear->weight.requires_grad());
  EXPECT_TRUE(linear->bias.requires_grad());
}

TEST_F(ModulesTest, ACloneTrainsAtTheSameNestedRank) {
  RoRALinear layer = trained(RoRALinear(small().rank(3)));
  layer->low_rank()->train_nested(2);
  EXPECT_TRUE(at::equal(computed_anew(layer, x), layer->forward(x)));
}

TEST_F(ModulesTest, ADoRALayerComputesInInferenceMode) {
  c10::InferenceMode inference;
  RoRALinear layer(RoRALinearOptions(6, 4).rank(2).dora(true));
  const at::Tensor input = at::randn({3, 6});
  EXPECT_LT(relative_error(layer->forward(input), layer->forward_frozen(input)), 1e-5);
}

} // namespace
} // namespace rora
