#include "pair_support.h"
#include "peft_trace.h"
#include "support/gradcheck.h"
#include "support/test_data.h"

#include <rora/training/lora_fa.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>

namespace rora {
namespace {

using testing::OnePair;
using testing::random;
using testing::relative_error;

TEST(LoraFa, FollowsTheTraceOfPeftsOptimiser) {
  const SafetensorsFile trace(testing::test_data("optimizers/lora_fa.safetensors"));
  testing::TracedLayers model(/*dora=*/false);
  freeze_a(*model);
  model->begin(trace);
  ParameterTable parameters(*model);
  ASSERT_EQ(parameters.half_pairs().size(), 2u);
  LoraFa optimizer(parameters, LoraFaOptions().weight_decay(0.1));
  testing::follow_trace(trace, model, parameters, optimizer);
}

TEST(LoraFa, ItsStepMovesTheWeightAlongTheGradientsPartInTheRowsOfA) {
  OnePair pair(random({3, testing::kIn}, 4), random({testing::kOut, 3}, 5), /*trains_a=*/false);
  // Without second moments the step is the learning rate times gB/|gB|, element by element: ε makes it gB/ε.
  constexpr double kEps = 1e6;
  LoraFa optimizer(*pair.parameters, LoraFaOptions().beta1(0.0).beta2(0.0).eps(kEps).damping(0.0));
  const at::Tensor g = random({testing::kOut, testing::kIn}, 6), before = pair.delta(), a = pair.a();
  pair.set_gradients(g);
  optimizer.step(1e-3);
  const at::Tensor projection = a.t().mm(at::linalg_inv(a.mm(a.t()))).mm(a);
  EXPECT_LT(relative_error((before - pair.delta()) * (kEps / 1e-3), g.mm(projection)), 1e-5);
  EXPECT_TRUE(at::equal(pair.a(), a));
}

TEST(LoraFa, FrozenAIsNoParameterAndTheTableKnowsTheHalfPair) {
  OnePair pair(random({3, testing::kIn}, 4), random({testing::kOut, 3}, 5));
  EXPECT_TRUE(pair.parameters->half_pairs().empty());
  EXPECT_THROW(LoraFa(*pair.parameters), c10::ValueError) << "A is trained";
  pair.parameters.reset();
  const torch::nn::ModuleList model(pair.projection);
  freeze_a(*model);
  ParameterTable parameters(*model);
  ASSERT_EQ(parameters.entries().size(), 1u);
  EXPECT_TRUE(parameters.pairs().empty());
  ASSERT_EQ(parameters.half_pairs().size(), 1u);
  const HalfPair& half = parameters.half_pairs()[0];
  EXPECT_EQ(parameters.entries()[half.trained].role, ParameterRole::kB);
  EXPECT_TRUE(half.frozen.is_alias_of(pair.adapter->lora_A));
  EXPECT_EQ(half.scale, pair.adapter->scale());
  EXPECT_EQ(LoraFa(parameters).state_bytes(), 2 * testing::kOut * 3 * 8);
}

TEST(LoraFa, RefusesModelsWithoutPairsAndOptionsOutOfRange) {
  const torch::nn::ModuleList bare(Projection(at::randn({2, 3})));
  EXPECT_THROW(freeze_a(*bare), c10::ValueError);
  ParameterTable loose({{"x", at::ones({3}).set_requires_grad(true)}});
  EXPECT_THROW(LoraFa optimizer(loose), c10::ValueError);
  OnePair pair(random({3, testing::kIn}, 4), random({testing::kOut, 3}, 5), /*trains_a=*/false);
  for (const double bad : {-1.0, std::numeric_limits<double>::infinity()}) {
    for (const LoraFaOptions& options :
         {LoraFaOptions().beta2(bad), LoraFaOptions().eps(bad), LoraFaOptions().weight_decay(bad),
          LoraFaOptions().damping(bad)}) {
      EXPECT_THROW(LoraFa(*pair.parameters, options), c10::ValueError) << bad;
    }
  }
}

} // namespace
} // namespace rora
