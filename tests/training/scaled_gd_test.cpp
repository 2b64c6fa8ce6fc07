#include "pair_support.h"
#include "peft_trace.h"
#include "support/gradcheck.h"
#include "support/test_data.h"

#include <rora/training/scaled_gd.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>

namespace rora {
namespace {

using testing::OnePair;
using testing::random;
using testing::relative_error;

TEST(ScaledGD, FollowsTheTraceOfPeftsOptimiser) {
  const SafetensorsFile trace(testing::test_data("optimizers/scaled_gd.safetensors"));
  testing::TracedLayers model(/*dora=*/true);
  model->begin(trace);
  ParameterTable parameters(*model);
  const auto adamw = AdamWOptions().beta1(0.8).beta2(0.95).eps(1e-6).weight_decay(0.1);
  ScaledGD optimizer(parameters, ScaledGDOptions().adamw(adamw));
  testing::follow_trace(trace, model, parameters, optimizer);
}

TEST(ScaledGD, WithoutDampingItProjectsTheGradientOnColumnsOfBAndRowsOfA) {
  OnePair pair(random({3, testing::kIn}, 4), random({testing::kOut, 3}, 5));
  const at::Tensor a = pair.a(), b = pair.b(), g = random({testing::kOut, testing::kIn}, 6);
  // Adam's step from a large ε is the gradient over ε.
  constexpr double kEps = 1e6, kRate = 1e-3;
  const auto adamw = AdamWOptions().beta1(0.0).beta2(0.0).eps(kEps);
  ScaledGD optimizer(*pair.parameters, ScaledGDOptions().adamw(adamw).damping(0.0));
  pair.set_gradients(g);
  const at::Tensor gradients = pair.parameters->gradients().clone();
  optimizer.step(kRate);
  EXPECT_TRUE(at::equal(pair.parameters->gradients(), gradients)) << "hooks read them behind the update";
  const at::Tensor moved_a = (a - pair.a()) * (kEps / kRate), moved_b = (b - pair.b()) * (kEps / kRate);
  const at::Tensor of_a = a.t().mm(at::linalg_inv(a.mm(a.t()))).mm(a);
  const at::Tensor of_b = b.mm(at::linalg_inv(b.t().mm(b))).mm(b.t());
  const double scale = pair.adapter->scale();
  const at::Tensor expected = scale * scale * (of_b.mm(g) + g.mm(of_a));
  EXPECT_LT(relative_error(scale * (b.mm(moved_a) + moved_b.mm(a)), expected), 1e-5);
}

TEST(ScaledGD, FromBAtZeroItMovesBAlone) {
  const at::Tensor a = random({3, testing::kIn}, 4);
  for (const double damping : {0.0, 1e-2}) {
    OnePair own(a, at::zeros({testing::kOut, 3}, at::kDouble));
    ScaledGD optimizer(*own.parameters, ScaledGDOptions().damping(damping));
    own.set_gradients(random({testing::kOut, testing::kIn}, 6));
    optimizer.step(1e-2);
    EXPECT_TRUE(at::equal(own.a(), a)) << damping;
    EXPECT_GT(own.b().abs().min().item<double>(), 0.0) << damping;
  }
}

TEST(ScaledGD, RefusesOptionsOutOfRange) {
  OnePair pair(random({3, testing::kIn}, 4), random({testing::kOut, 3}, 5));
  for (const double bad : {-1.0, std::numeric_limits<double>::infinity()}) {
    EXPECT_THROW(ScaledGD(*pair.parameters, ScaledGDOptions().damping(bad)), c10::ValueError) << bad;
    EXPECT_THROW(ScaledGD(*pair.parameters, ScaledGDOptions().adamw(AdamWOptions().eps(bad))), c10::ValueError);
  }
}

} // namespace
} // namespace rora
