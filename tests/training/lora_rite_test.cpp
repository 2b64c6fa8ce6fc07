#include "pair_support.h"
#include "support/gradcheck.h"

#include <rora/training/adamw.h>
#include <rora/training/lora_rite.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>
#include <tuple>

namespace rora {
namespace {

using testing::OnePair;
using testing::quadratic_gradient;
using testing::random;
using testing::relative_error;
using testing::trajectory;

constexpr int kSteps = 12;
constexpr double kRate = 0.03;

at::Tensor state_of(const Optimizer& optimizer, const std::string& name) {
  for (const auto& [each, tensor] : optimizer.state()) {
    if (each == name) {
      return tensor;
    }
  }
  throw std::runtime_error("no state named " + name);
}

TEST(LoraRite, MovesTheProductAlikeHoweverItIsDividedBetweenTheFactors) {
  for (const int64_t rank : {3, 6}) { // the latter above the outputs
    const at::Tensor a = random({rank, testing::kIn}, 4), b = random({testing::kOut, rank}, 5);
    const auto make = lora_rite(LoraRiteOptions().weight_decay(0.1));
    const auto run = [&](const at::Tensor& own_a, const at::Tensor& own_b) {
      OnePair pair(own_a, own_b);
      return trajectory(pair, make, kSteps, kRate);
    };
    const at::Tensor expected = run(a, b);
    EXPECT_GT(relative_error(expected[kSteps - 1], expected[0]), 0.05) << "it stands still";
    for (const double c : {10.0, 1000.0, 0.1}) {
      EXPECT_LT(relative_error(run(c * a, b / c), expected), 1e-9) << rank << ", " << c;
    }
    // Of a wide B, BT⁻¹ has a pseudo-inverse that follows an orthogonal T alone.
    const at::Tensor square = random({rank, rank}, 6) + 2.0 * at::eye(rank, at::kDouble);
    const at::Tensor t = rank <= testing::kOut ? square : std::get<0>(at::linalg_qr(square));
    EXPECT_LT(relative_error(run(t.mm(a), b.mm(at::linalg_inv(t))), expected), 1e-8) << rank;
  }
}

TEST(LoraRite, AdamWMovesItOtherwise) {
  const at::Tensor a = random({3, testing::kIn}, 4), b = random({testing::kOut, 3}, 5);
  const auto make = [](ParameterTable& parameters) { return std::make_unique<AdamW>(parameters); };
  OnePair one(a, b), other(10.0 * a, b / 10.0);
  EXPECT_GT(relative_error(trajectory(other, make, kSteps, kRate), trajectory(one, make, kSteps, kRate)), 0.5);
}

/// The same algorithm without bases: V and M stand in the space of the other factor's columns, and P is the projection
/// on these.
class BasisFree {
 public:
  explicit BasisFree(const LoraRiteOptions& options) : options_(options) {}

  void step(at::Tensor& a, at::Tensor& b, const at::Tensor& ga, const at::Tensor& gb, double rate) {
    ++steps_;
    const at::Tensor x[] = {a.t(), b};
    const at::Tensor g[] = {ga.t(), gb};
    at::Tensor u[2], inverse[2];
    double squared = 0.0;
    for (int i = 0; i < 2; ++i) {
      inverse[i] = at::linalg_pinv(x[i]); // R⁺Qᵀ
    }
    for (int i = 0; i < 2; ++i) {
      u[i] = g[i].mm(inverse[1 - i]);
      const double size = static_cast<double>(x[i].size(0) * std::min(x[1 - i].size(0), x[1 - i].size(1)));
      if (u[i].square().sum().item<double>() / size > options_.skip() * options_.skip()) {
        u[i] = at::zeros_like(u[i]);
      }
      squared += u[i].square().sum().item<double>();
    }
    const double factor = options_.clip() / std::max(options_.clip(), std::sqrt(squared));
    at::Tensor moved[2];
    for (int i = 0; i < 2; ++i) {
      moved[i] = advance(i, u[i] * factor, x[1 - i].mm(inverse[1 - i])).mm(inverse[1 - i].t());
    }
    const double kept = 1.0 - rate * options_.weight_decay();
    a = kept * a - rate * moved[0].t();
    b = kept * b - rate * moved[1];
  }

 private:
  double average(double beta) const {
    return beta * (1.0 - std::pow(beta, steps_ - 1.0)) / (1.0 - std::pow(beta, steps_));
  }

  at::Tensor advance(int i, const at::Tensor& u, const at::Tensor& projection) {
    const double beta1 = average(options_.beta1()), beta2 = average(options_.beta2());
    if (!v_[i].defined()) {
      v_[i] = at::zeros_like(projection);
      m_[i] = at::zeros_like(u);
    }
    v_[i] = beta2 * projection.mm(v_[i]).mm(projection) + (1.0 - beta2) / u.size(0) * u.t().mm(u);
    const auto [w, vectors] = at::linalg_eigh(v_[i]);
    const at::Tensor root = (vectors / (w.clamp_min(0.0).sqrt() + options_.eps())).mm(vectors.t());
    return m_[i] = beta1 * m_[i].mm(projection) + (1.0 - beta1) * u.mm(root);
  }

  LoraRiteOptions options_;
  double steps_ = 0.0;
  at::Tensor v_[2], m_[2];
};

void expect_basis_free(const LoraRiteOptions& options, int64_t rank, double gradient_scale) {
  OnePair pair(random({rank, testing::kIn}, 4), random({testing::kOut, rank}, 5));
  LoraRite optimizer(*pair.parameters, options);
  BasisFree reference(options);
  at::Tensor a = pair.a(), b = pair.b();
  const double scale = pair.adapter->scale();
  for (int step = 0; step < 6; ++step) {
    const at::Tensor g = quadratic_gradient(pair.delta()) * gradient_scale;
    pair.set_gradients(g);
    optimizer.step(kRate);
    reference.step(a, b, scale * b.t().mm(g), scale * g.mm(a.t()), kRate);
    EXPECT_LT(relative_error(pair.a(), a), 1e-8) << "at step " << step;
    EXPECT_LT(relative_error(pair.b(), b), 1e-8) << "at step " << step;
  }
}

TEST(LoraRite, IsTheAlgorithmWithoutBases) {
  expect_basis_free(LoraRiteOptions().beta1(0.8).beta2(0.95).weight_decay(0.1), 3, 1.0);
  expect_basis_free(LoraRiteOptions(), 6, 1.0);
  expect_basis_free(LoraRiteOptions().clip(0.01), 3, 1.0);
  expect_basis_free(LoraRiteOptions().skip(0.05), 3, 1.0); // of which some are skipped
}

TEST(LoraRite, ItsFirstDirectionsAreOrthogonal) {
  OnePair pair(random({3, testing::kIn}, 4), random({testing::kOut, 3}, 5));
  LoraRite optimizer(*pair.parameters, LoraRiteOptions().eps(1e-12));
  pair.set_gradients(random({testing::kOut, testing::kIn}, 6) / 10.0);
  optimizer.step(kRate);
  const at::Tensor momentum = state_of(optimizer, "momentum");
  const auto expect_orthogonal = [](const at::Tensor& s) {
    const at::Tensor expected = static_cast<double>(s.size(0)) * at::eye(s.size(1), at::kDouble);
    EXPECT_LT(relative_error(s.t().mm(s), expected), 1e-8);
  };
  expect_orthogonal(momentum.narrow(0, 0, testing::kIn * 3).view({testing::kIn, 3}));
  expect_orthogonal(momentum.narrow(0, testing::kIn * 3, testing::kOut * 3).view({testing::kOut, 3}));
}

TEST(LoraRite, FromBAtZeroAMovesFromTheSecondUpdateOnUnlessItIsHeld) {
  const at::Tensor a = random({3, testing::kIn}, 4);
  for (const int64_t held : {0, 5}) {
    OnePair pair(a, at::zeros({testing::kOut, 3}, at::kDouble));
    LoraRite optimizer(*pair.parameters, LoraRiteOptions().hold_a(held));
    for (int step = 1; step <= 6; ++step) {
      pair.set_gradients(quadratic_gradient(pair.delta()));
      optimizer.step(1e-3);
      EXPECT_GT(pair.b().abs().max().item<double>(), 0.0);
      EXPECT_EQ(at::equal(pair.a(), a), step <= std::max<int64_t>(1, held)) << held << " at step " << step;
      EXPECT_TRUE(pair.a().isfinite().all().item<bool>());
      if (held == 0 && step == 2) {
        EXPECT_GT(((pair.a() - a).norm() / a.norm()).item<double>(), 0.2) << "whatever the rate";
      }
    }
  }
}

TEST(LoraRite, GoesDownTheLoss) {
  OnePair pair(random({3, testing::kIn}, 4), random({testing::kOut, 3}, 5));
  const at::Tensor before = quadratic_gradient(pair.delta()).norm();
  trajectory(pair, lora_rite(), 300, kRate);
  // What is left is the part that no ΔW of this rank takes away.
  const at::Tensor g = quadratic_gradient(pair.delta());
  EXPECT_LT(pair.b().t().mm(g).norm().item<double>(), 0.05 * before.item<double>());
}

TEST(LoraRite, RefusesOptionsOutOfRange) {
  OnePair pair(random({3, testing::kIn}, 4), random({testing::kOut, 3}, 5));
  const double infinite = std::numeric_limits<double>::infinity();
  for (const double bad : {-1.0, infinite}) {
    for (const LoraRiteOptions& options :
         {LoraRiteOptions().beta1(bad), LoraRiteOptions().eps(bad), LoraRiteOptions().weight_decay(bad),
          LoraRiteOptions().clip(bad), LoraRiteOptions().skip(bad), LoraRiteOptions().adamw_eps(bad)}) {
      EXPECT_THROW(LoraRite(*pair.parameters, options), c10::ValueError) << bad;
    }
  }
  EXPECT_THROW(LoraRite(*pair.parameters, LoraRiteOptions().hold_a(-1)), c10::ValueError);
  EXPECT_NO_THROW(LoraRite(*pair.parameters, LoraRiteOptions().clip(0.0).skip(0.0)));
}

} // namespace
} // namespace rora
