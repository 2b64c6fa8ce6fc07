#include "pair_support.h"
#include "support/gradcheck.h"

#include <rora/training/lora_pro.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>

namespace rora {
namespace {

using testing::OnePair;
using testing::quadratic_gradient;
using testing::random;
using testing::relative_error;
using testing::trajectory;

constexpr double kScale = 1.7;

/// Factors, the weight's gradient G and what follows from these.
struct Setting {
  at::Tensor a = random({3, testing::kIn}, 4);
  at::Tensor b = random({testing::kOut, 3}, 5);
  at::Tensor g = random({testing::kOut, testing::kIn}, 6);

  FactorGradients own() const {
    return {kScale * b.t().mm(g), kScale * g.mm(a.t())};
  }
  FactorGradients closest(double damping = 0.0) const {
    return lora_pro_gradients(a, b, own(), kScale, damping);
  }
  /// s·B·gA + s·gB·A.
  at::Tensor moved(const FactorGradients& by) const {
    return kScale * (b.mm(by.a) + by.b.mm(a));
  }
  /// M − (I − P_B)·M·(I − P_A).
  at::Tensor projected(const at::Tensor& m) const {
    const at::Tensor off_a = at::eye(testing::kIn, at::kDouble) - at::linalg_pinv(a).mm(a);
    const at::Tensor off_b = at::eye(testing::kOut, at::kDouble) - b.mm(at::linalg_pinv(b));
    return m - off_b.mm(m).mm(off_a);
  }
};

TEST(LoraPro, ItsStepIsTheProjectionOfTheWeightsGradient) {
  const Setting at;
  EXPECT_LT(relative_error(at.b.t().mm(at.own().b), at.own().a.mm(at.a.t())), 1e-12) << "true of every backward";
  const at::Tensor moved = at.moved(at.closest());
  EXPECT_LT(relative_error(moved, at.projected(at.g)), 1e-10);
  EXPECT_LT(at.b.t().mm(at.g - moved).abs().max().item<double>(), 1e-10);
  EXPECT_LT((at.g - moved).mm(at.a.t()).abs().max().item<double>(), 1e-10);
  const double distance = (at.g - moved).norm().item<double>();
  for (const double c : {-0.1, 0.01, 0.05, 0.1, 0.3, 1.0}) {
    EXPECT_LE(distance, (at.g - c * at.moved(at.own())).norm().item<double>()) << c;
  }
}

TEST(LoraPro, ItGoesDownByTheProjectionsNorm) {
  const Setting at;
  const FactorGradients own = at.own(), closest = at.closest();
  const at::Tensor descent = (own.a * closest.a).sum() + (own.b * closest.b).sum();
  EXPECT_LT(relative_error(descent, at.moved(closest).square().sum()), 1e-10);
}

TEST(LoraPro, TheProjectionIsTheSameHoweverTheProductIsDivided) {
  const Setting one;
  Setting other;
  const at::Tensor t = random({3, 3}, 7) + 2.0 * at::eye(3, at::kDouble);
  other.a = t.mm(one.a);
  other.b = one.b.mm(at::linalg_inv(t));
  EXPECT_LT(relative_error(other.moved(other.closest()), one.moved(one.closest())), 1e-9);
}

TEST(LoraPro, XSolvesItsEquationAndBringsTheStepClosestToTheOrdinaryOne) {
  const Setting at;
  const FactorGradients own = at.own(), closest = at.closest();
  const auto distance = [&](const FactorGradients& each) {
    return ((each.a - own.a).square().sum() + (each.b - own.b).square().sum()).item<double>();
  };
  const double least = distance(closest);
  for (uint64_t seed = 10; seed < 14; ++seed) { // any other X moves the weight as much, by factors further away
    const at::Tensor x = random({3, 3}, seed) / 100.0;
    const FactorGradients moved{closest.a + x.mm(at.a), closest.b - at.b.mm(x)};
    EXPECT_LT(relative_error(at.moved(moved), at.moved(closest)), 1e-10);
    EXPECT_GT(distance(moved), least);
  }
}

TEST(LoraPro, AtBOfZeroItMovesBAlone) {
  Setting at;
  at.b.zero_();
  for (const double damping : {0.0, 1e-8}) {
    const FactorGradients closest = at.closest(damping);
    EXPECT_EQ(closest.a.abs().max().item<double>(), 0.0) << damping;
    const at::Tensor expected = at.own().b.mm(at::linalg_inv(at.a.mm(at.a.t()))) / (kScale * kScale);
    EXPECT_LT(relative_error(closest.b, expected), 1e-6) << damping;
  }
}

TEST(LoraPro, SingularFactorsGiveFiniteGradients) {
  Setting at;
  at.a[2].copy_(at.a[0]); // of rank 2
  at.b.select(1, 1).zero_();
  for (const double damping : {0.0, 1e-8}) {
    const FactorGradients closest = at.closest(damping);
    EXPECT_LT(relative_error(at.moved(closest), at.projected(at.g)), 1e-6) << damping;
    EXPECT_LT(closest.a.abs().max().item<double>(), 1e3);
  }
}

TEST(LoraPro, WithFactorMomentsTheStepIsAdamWsFromThoseGradients) {
  const at::Tensor a = random({3, testing::kIn}, 4), b = random({testing::kOut, 3}, 5);
  OnePair pair(a, b), by_hand(a, b);
  const auto adamw = AdamWOptions().beta1(0.8).beta2(0.9).weight_decay(0.1);
  LoraPro optimizer(*pair.parameters, LoraProOptions().adamw(adamw));
  AdamW plain(*by_hand.parameters, adamw);
  for (int step = 0; step < 5; ++step) {
    pair.set_gradients(quadratic_gradient(pair.delta()));
    optimizer.step(0.01);
    by_hand.set_gradients(quadratic_gradient(by_hand.delta()));
    const ParameterPair& factors = by_hand.parameters->pairs()[0];
    const at::Tensor gradients = by_hand.parameters->gradients();
    const at::Tensor of_a = ParameterTable::slice(by_hand.parameters->entries()[factors.a], gradients);
    const at::Tensor of_b = ParameterTable::slice(by_hand.parameters->entries()[factors.b], gradients);
    const FactorGradients closest =
        lora_pro_gradients(by_hand.a(), by_hand.b(), {of_a, of_b}, by_hand.adapter->scale(), 1e-8);
    of_a.copy_(closest.a);
    of_b.copy_(closest.b);
    plain.step(0.01);
  }
  EXPECT_TRUE(at::equal(pair.delta(), by_hand.delta()));
  EXPECT_GT(relative_error(pair.delta(), kScale * b.mm(a)), 1e-3);
}

TEST(LoraPro, WithTheWeightsMomentsTheStepIsTheProjectionOfAdamsDirection) {
  OnePair pair(random({3, testing::kIn}, 4), random({testing::kOut, 3}, 5));
  constexpr double kBeta1 = 0.8, kBeta2 = 0.9, kEps = 1e-4, kRate = 1e-6;
  const auto adamw = AdamWOptions().beta1(kBeta1).beta2(kBeta2).eps(kEps);
  LoraProFull optimizer(*pair.parameters, LoraProOptions().adamw(adamw).damping(0.0));
  at::Tensor m = at::zeros({testing::kOut, testing::kIn}, at::kDouble), v = m.clone();
  for (int step = 1; step <= 4; ++step) {
    Setting at;
    at.a = pair.a();
    at.b = pair.b();
    const at::Tensor g = random({testing::kOut, testing::kIn}, 20 + static_cast<uint64_t>(step));
    const at::Tensor projected = at.projected(g);
    m = kBeta1 * m + (1.0 - kBeta1) * projected;
    v = kBeta2 * v + (1.0 - kBeta2) * projected.square();
    const at::Tensor direction =
        m / (1.0 - std::pow(kBeta1, step)) / ((v / (1.0 - std::pow(kBeta2, step))).sqrt() + kEps);
    pair.set_gradients(g);
    const at::Tensor before = pair.delta();
    optimizer.step(kRate);
    // Up to the second order of the rate.
    EXPECT_LT(relative_error((before - pair.delta()) / kRate, at.projected(direction)), 1e-4) << step;
  }
  EXPECT_EQ(optimizer.state_bytes(), 2 * testing::kOut * testing::kIn * 8);
}

TEST(LoraPro, BothGoDownTheLoss) {
  for (const bool full : {false, true}) {
    OnePair pair(random({3, testing::kIn}, 4), random({testing::kOut, 3}, 5));
    const at::Tensor before = quadratic_gradient(pair.delta());
    const double begun = pair.b().t().mm(before).norm().item<double>();
    trajectory(pair, lora_pro(LoraProOptions().full(full)), 400, 0.02);
    EXPECT_LT(pair.b().t().mm(quadratic_gradient(pair.delta())).norm().item<double>(), 0.2 * begun) << full;
  }
}

TEST(LoraPro, RefusesOptionsOutOfRange) {
  OnePair pair(random({3, testing::kIn}, 4), random({testing::kOut, 3}, 5));
  for (const double bad : {-1.0, std::numeric_limits<double>::infinity()}) {
    for (const bool full : {false, true}) {
      for (const LoraProOptions& options :
           {LoraProOptions().damping(bad), LoraProOptions().adamw(AdamWOptions().beta1(bad))}) {
        EXPECT_THROW(lora_pro(LoraProOptions(options).full(full))(*pair.parameters), c10::ValueError) << bad;
      }
    }
  }
}

} // namespace
} // namespace rora
