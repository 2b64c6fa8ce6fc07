#include "support/gradcheck.h"

#include <rora/core/low_rank_linear.h>
#include <rora/core/rora_linear.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>

namespace rora {
namespace {

using rora::testing::gradient_error;
using rora::testing::relative_error;

/// A layer whose B is not zero, so that its adapter does something.
RoRALinear trained(const RoRALinearOptions& options) {
  at::manual_seed(11);
  RoRALinear layer(options);
  at::NoGradGuard no_grad;
  layer->low_rank()->lora_B.normal_(0.0, 0.3);
  if (options.low_rank().dora()) {
    layer->low_rank()->lora_magnitude_vector.mul_(at::rand({options.out_features()}) + 0.5);
  }
  return layer;
}

TEST(Scaling, IsAlphaOverRankOrOverItsRoot) {
  EXPECT_DOUBLE_EQ(scaling_factor(Scaling::kStandard, 32, 16), 2.0);
  EXPECT_DOUBLE_EQ(scaling_factor(Scaling::kRankStabilized, 32, 16), 8.0);
  EXPECT_THROW(scaling_factor(Scaling::kStandard, 32, 0), c10::ValueError);
}

class RoRALinearModes : public ::testing::TestWithParam<std::tuple<Scaling, bool, bool>> {
 protected:
  RoRALinearOptions options() const {
    const auto [scaling, dora, bias] = GetParam();
    return RoRALinearOptions(12, 10).rank(4).alpha(8).scaling(scaling).dora(dora).bias(bias);
  }
};

TEST_P(RoRALinearModes, AZeroBIsTheFrozenLayer) {
  RoRALinear layer(options());
  const at::Tensor x = at::randn({2, 3, 12});
  const at::Tensor frozen = at::linear(x, layer->weight, layer->bias);
  EXPECT_LT(relative_error(layer->forward(x).detach(), frozen), 1e-6);
}

TEST_P(RoRALinearModes, IsTheFrozenLayerWhileAdaptersAreDisabled) {
  RoRALinear layer = trained(options());
  const at::Tensor x = at::randn({2, 3, 12});
  const at::Tensor adapted = layer->forward(x).detach();
  const at::Tensor frozen = at::linear(x, layer->weight, layer->bias);
  EXPECT_GT(relative_error(adapted, frozen), 1e-2);
  {
    DisableAdapters disabled(*layer);
    EXPECT_LT(relative_error(layer->forward(x), frozen), 1e-6);
  }
  EXPECT_TRUE(at::equal(layer->forward(x).detach(), adapted));
}

TEST_P(RoRALinearModes, MergedIsUnmergedAndUnmergingIsExact) {
  RoRALinear layer = trained(options());
  const at::Tensor x = at::randn({5, 12});
  const at::Tensor base = layer->weight.clone();
  const at::Tensor adapted = layer->forward(x).detach();
  layer->merge();
  EXPECT_TRUE(layer->merged());
  EXPECT_FALSE(at::equal(layer->weight, base));
  EXPECT_LT(relative_error(layer->forward(x).detach(), adapted), 2e-6);
  layer->unmerge();
  EXPECT_TRUE(at::equal(layer->weight, base));
  EXPECT_TRUE(at::equal(layer->forward(x).detach(), adapted));
}

TEST_P(RoRALinearModes, PassesGradcheckInDouble) {
  RoRALinear layer = trained(options());
  layer->to(at::kDouble);
  // The norm is a constant of DoRA's graph, so only x and the magnitude are compared with differences there.
  const bool dora = options().low_rank().dora();
  const auto adapter = layer->low_rank();
  std::vector<at::Tensor> inputs{at::randn({3, 12}, at::kDouble)};
  for (const at::Tensor& each : layer->adapter_parameters()) {
    if (!dora || each.is_same(adapter->lora_magnitude_vector)) {
      inputs.push_back(each);
    }
  }
  const auto function = [&](const std::vector<at::Tensor>& in) -> std::vector<at::Tensor> {
    ops::LowRankTerm term = layer->frozen_term();
    adapter->low_rank_term(*layer, term);
    if (dora) {
      term.magnitude = in[1];
    } else {
      term.a = in[1];
      term.b = in[2];
    }
    return ops::low_rank_linear(in[0], {term});
  };
  EXPECT_LT(gradient_error(function, inputs), 1e-7);
}

INSTANTIATE_TEST_SUITE_P(
    All, RoRALinearModes,
    ::testing::Combine(
        ::testing::Values(Scaling::kStandard, Scaling::kRankStabilized), ::testing::Bool(), ::testing::Bool()));

TEST(RoRALinear, IsLoraAtAnEqualScale) {
  RoRALinear rora = trained(RoRALinearOptions(12, 10).rank(4).alpha(8).scaling(Scaling::kRankStabilized));
  RoRALinear lora = trained(RoRALinearOptions(12, 10).rank(4).alpha(16).scaling(Scaling::kStandard));
  const at::Tensor x = at::randn({5, 12});
  EXPECT_TRUE(at::equal(rora->forward(x), lora->forward(x)));
}

TEST(RoRALinear, TrainsItsAdapterAloneAndOnATaskConverges) {
  RoRALinear layer(RoRALinearOptions(12, 10).rank(2).alpha(4));
  const at::Tensor frozen = layer->weight.clone();
  at::manual_seed(12);
  const at::Tensor target = frozen + 0.3 * at::randn({10, 2}).mm(at::randn({2, 12}));
  const at::Tensor x = at::randn({64, 12});
  double first = 0.0, last = 0.0;
  for (int step = 0; step < 400; ++step) {
    const at::Tensor loss = (layer->forward(x) - at::linear(x, target)).square().mean();
    for (at::Tensor& parameter : layer->adapter_parameters()) {
      parameter.mutable_grad().reset();
    }
    loss.backward();
    at::NoGradGuard no_grad;
    for (at::Tensor& parameter : layer->adapter_parameters()) {
      parameter.sub_(0.02 * parameter.grad());
    }
    (step == 0 ? first : last) = loss.item<double>();
  }
  EXPECT_LT(last, 0.01 * first);
  EXPECT_TRUE(at::equal(layer->weight, frozen));
  EXPECT_FALSE(layer->weight.grad().defined());
}

TEST(RoRALinear, SharesTheLinearLayerItIsBuiltFrom) {
  torch::nn::Linear linear(6, 4);
  RoRALinear layer(linear, LowRankOptions().rank(2));
  EXPECT_EQ(layer->weight.data_ptr(), linear->weight.data_ptr());
  const at::Tensor x = at::randn({3, 6});
  EXPECT_LT(relative_error(layer->forward(x).detach(), linear->forward(x).detach()), 1e-6);
  EXPECT_EQ(layer->adapter_parameters().size(), 2u);
}

TEST(RoRALinear, RankZeroIsTheFrozenLayer) {
  RoRALinear layer(RoRALinearOptions(6, 4).rank(0));
  EXPECT_EQ(layer->low_rank(), nullptr);
  EXPECT_TRUE(layer->adapter_parameters().empty());
  EXPECT_FALSE(layer->forward(at::randn({3, 6})).requires_grad());
}

TEST(RoRALinear, RefusesOptionsOutOfRange) {
  EXPECT_THROW(RoRALinear(RoRALinearOptions(6, 4).rank(-1)), c10::ValueError);
  EXPECT_THROW(RoRALinear(RoRALinearOptions(6, 4).dropout(1.0)), c10::ValueError);
  EXPECT_THROW(RoRALinear(RoRALinearOptions(6, 4).alpha(std::nan(""))), c10::ValueError);
}

TEST(RoRALinear, DropoutIsOnlyForTraining) {
  RoRALinear layer = trained(RoRALinearOptions(12, 10).rank(4).dropout(0.5));
  const at::Tensor x = at::randn({5, 12});
  EXPECT_FALSE(at::equal(layer->forward(x), layer->forward(x)));
  layer->eval();
  EXPECT_TRUE(at::equal(layer->forward(x), layer->forward(x)));
}

TEST(RoRALinear, DoraFollowsItsParametersChanges) {
  RoRALinear layer = trained(RoRALinearOptions(12, 10).rank(4).dora(true));
  const at::Tensor x = at::randn({5, 12});
  layer->forward(x);
  {
    at::NoGradGuard no_grad;
    layer->low_rank()->lora_B.add_(0.5);
  }
  const auto adapter = layer->low_rank();
  const at::Tensor direction = layer->weight + adapter->scale() * adapter->lora_B.mm(adapter->lora_A);
  const at::Tensor weight = direction * (adapter->lora_magnitude_vector / direction.norm(2, 1)).unsqueeze(1);
  EXPECT_LT(relative_error(layer->forward(x).detach(), at::linear(x, weight).detach()), 1e-5);
}

TEST(Projection, HoldsNamedAdaptersWithOneActive) {
  at::manual_seed(13);
  Projection projection(at::randn({4, 6}));
  const at::Tensor x = at::randn({3, 6});
  const at::Tensor frozen = projection->forward(x);
  const auto attach = [&](const char* name) {
    auto adapter = std::make_shared<LowRankAdapter>(*projection, LowRankOptions().rank(2));
    at::NoGradGuard no_grad;
    adapter->lora_B.normal_();
    projection->attach(name, adapter);
    return projection->forward(x).detach();
  };
  const at::Tensor first = attach("first");
  const at::Tensor second = attach("second");
  EXPECT_EQ(projection->active_name(), "second");
  const auto trained = [&](const char* name) { return projection->adapter(name)->parameters()[0].requires_grad(); };
  EXPECT_TRUE(trained("second") && !trained("first"));
  EXPECT_FALSE(at::equal(first, second));
  projection->activate("first");
  EXPECT_TRUE(trained("first") && !trained("second"));
  EXPECT_TRUE(at::equal(projection->forward(x).detach(), first));
  projection->activate("");
  EXPECT_TRUE(at::equal(projection->forward(x), frozen));
  EXPECT_THROW(projection->activate("third"), c10::ValueError);
  EXPECT_THROW(attach("first"), c10::ValueError);
  projection->detach("first");
  EXPECT_THROW(projection->detach("first"), c10::ValueError);
  projection->activate("second");
  {
    DisableAdapters disabled(*projection);
    EXPECT_TRUE(at::equal(projection->forward(x), frozen));
  }
  EXPECT_TRUE(at::equal(projection->forward(x).detach(), second));
}

class StoredAnotherWay : public ::testing::TestWithParam<bool> {};

TEST_P(StoredAnotherWay, IsWhatAdaptersWorkOnAndMergeInto) {
  RoRALinear layer = trained(RoRALinearOptions(12, 10).rank(4).dora(GetParam()));
  const at::Tensor x = at::randn({5, 12});
  const at::Tensor first = layer->forward(x).detach();
  const at::Tensor weight = layer->weight.clone();
  const at::Tensor stored = at::round(weight * 20) / 20;
  layer->set_base(std::make_shared<ops::DenseWeight>(stored));
  const at::Tensor adapted = layer->forward(x).detach();

  RoRALinear expected(RoRALinearOptions(12, 10).rank(4).dora(GetParam()));
  {
    at::NoGradGuard no_grad;
    expected->weight.copy_(stored);
    const auto ours = layer->adapter_parameters();
    for (size_t i = 0; i < ours.size(); ++i) {
      expected->adapter_parameters()[i].copy_(ours[i]);
    }
  }
  EXPECT_GT(relative_error(adapted, first), 1e-3);
  EXPECT_LT(relative_error(adapted, expected->forward(x).detach()), 1e-6);

  layer->merge();
  EXPECT_THROW(layer->set_base(std::make_shared<ops::DenseWeight>(weight)), c10::ValueError);
  EXPECT_LT(relative_error(layer->forward(x).detach(), adapted), 2e-6);
  layer->unmerge();
  EXPECT_TRUE(at::equal(layer->weight, stored));
  EXPECT_TRUE(at::equal(layer->base().dense(), stored));
  EXPECT_TRUE(at::equal(layer->forward(x).detach(), adapted));
}

INSTANTIATE_TEST_SUITE_P(, StoredAnotherWay, ::testing::Bool(), [](const auto& info) {
  return std::string(info.param ? "Dora" : "Rora");
});

TEST(Projection, MergesBfloat16FromFloatAndRoundsOnce) {
  at::manual_seed(14);
  Projection projection(at::randn({8, 6}).to(at::kBFloat16));
  auto adapter = std::make_shared<LowRankAdapter>(*projection, LowRankOptions().rank(2));
  {
    at::NoGradGuard no_grad;
    adapter->lora_B.normal_(0.0, 0.1);
  }
  projection->attach("default", adapter);
  const at::Tensor exact =
      (projection->weight.to(at::kFloat) + adapter->scale() * adapter->lora_B.mm(adapter->lora_A)).to(at::kBFloat16);
  projection->merge();
  EXPECT_TRUE(at::equal(projection->weight, exact));
}

} // namespace
} // namespace rora
