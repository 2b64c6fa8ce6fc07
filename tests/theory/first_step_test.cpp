#include <rora/theory/first_step.h>
#include <rora/theory/first_step_sample.h>
#include <rora/theory/power_law.h>

#include <rora/core/rora_linear.h>
#include <rora/training/adamw.h>
#include <rora/training/parameter_table.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/optim/sgd.h>
#include <torch/utils.h>

#include <cmath>

namespace rora::theory {
namespace {

constexpr int64_t kIn = 24;
constexpr int64_t kOut = 7;
constexpr double kLearningRate = 0.3;

/// ΔW of one step of a layer of the library, from its A, x and δ.
struct RealStep {
  at::Tensor a;
  at::Tensor x;
  at::Tensor delta;
  double scale = 0.0;
  at::Tensor change;
};

RealStep take_real_step(StepRule rule, int64_t rank, Scaling scaling) {
  torch::manual_seed(5);
  RoRALinear layer(RoRALinearOptions(kIn, kOut).rank(rank).alpha(6.0).scaling(scaling));
  layer->to(at::kDouble);
  const auto adapter = layer->low_rank();
  RealStep step;
  step.a = adapter->lora_A.detach().clone();
  step.x = at::randn({kIn}, at::kDouble);
  step.delta = at::randn({kOut}, at::kDouble);
  step.scale = adapter->scale();
  const at::Tensor loss = layer->forward(step.x).dot(step.delta);
  if (rule == StepRule::kSgd) {
    loss.backward();
    torch::optim::SGD optimizer(layer->adapter_parameters(), torch::optim::SGDOptions(kLearningRate));
    optimizer.step();
  } else {
    ParameterTable table(*layer);
    AdamW optimizer(table);
    table.zero_grad();
    loss.backward();
    table.gradients();
    optimizer.step(kLearningRate);
  }
  EXPECT_TRUE(at::equal(adapter->lora_A.detach(), step.a)); // the first step leaves A as it is
  const auto pairs = adapter->pairs();
  EXPECT_EQ(pairs.size(), 1u);
  step.change = pairs[0].scale * pairs[0].b.detach().mm(pairs[0].a.detach());
  return step;
}

TEST(FirstStep, IsWhatALayerOfTheLibraryDoes) {
  for (const StepRule rule : kStepRules) {
    for (const int64_t rank : {1, 4, 16}) {
      for (const Scaling scaling : {Scaling::kStandard, Scaling::kRankStabilized}) {
        const RealStep step = take_real_step(rule, rank, scaling);
        const at::Tensor expected = first_step_change(rule, step.a, step.x, step.delta, step.scale, kLearningRate);
        const double size = expected.abs().max().item<double>();
        EXPECT_GT(size, 0.0);
        // AdamW's square root of a square, and the bias's 1 − β, cost some digits.
        EXPECT_LT((step.change - expected).abs().max().item<double>(), 1e-13 * size) << static_cast<int>(rule);
        const at::Tensor other_x = at::randn({kIn}, at::kDouble);
        EXPECT_LT((step.change.mv(other_x) - expected.mv(other_x)).abs().max().item<double>(), 1e-12 * size);
      }
    }
  }
}

// γ of either scale is the library's.
TEST(RankScale, IsTheLibrarysScalingFactor) {
  for (const int64_t rank : {1, 4, 256}) {
    EXPECT_DOUBLE_EQ(kLoraScale.factor(16.0, rank), scaling_factor(Scaling::kStandard, 16.0, rank));
    EXPECT_DOUBLE_EQ(kRoraScale.factor(16.0, rank), scaling_factor(Scaling::kRankStabilized, 16.0, rank));
    EXPECT_EQ(kConstantScale.factor(16.0, rank), 16.0);
  }
}

// A gradient far below ε makes AdamW's step SGD's at the rate η/ε.
TEST(FirstStep, OfAdamWBelowItsEpsilonIsSgds) {
  torch::manual_seed(2);
  const at::Tensor a = at::randn({3, kIn}, at::kDouble);
  const at::Tensor x = at::randn({kIn}, at::kDouble);
  const at::Tensor delta = 1e-16 * at::randn({kOut}, at::kDouble);
  const at::Tensor adamw = first_step_change(StepRule::kAdamW, a, x, delta, 1.0, 1.0, 1e-8);
  const at::Tensor sgd = first_step_change(StepRule::kSgd, a, x, delta, 1.0, 1e8);
  EXPECT_TRUE(at::allclose(adamw, sgd, 1e-6, 0.0));
}

/// The mean of q² or t² over many A at given inputs, and its standard error.
std::pair<double, double> mean_square(
    StepRule rule, InitialA initial, int64_t rank, const at::Tensor& x, const at::Tensor& other_x) {
  constexpr int64_t kSamples = 40000;
  const double bound = 1.0 / std::sqrt(static_cast<double>(x.size(0)));
  at::Tensor a = at::empty({kSamples, rank, x.size(0)}, at::kDouble);
  initial == InitialA::kUniform ? a.uniform_(-bound, bound) : a.normal_();
  const at::Tensor own = at::matmul(a, x);
  const at::Tensor other = at::matmul(a, other_x);
  const at::Tensor sums = ((rule == StepRule::kSgd ? own : own.sign()) * other).sum(1).square();
  return {sums.mean().item<double>(), sums.std().item<double>() / std::sqrt(static_cast<double>(kSamples))};
}

TEST(OutputSecondMoment, IsTheMeanOverManyA) {
  torch::manual_seed(7);
  const at::Tensor x = at::randn({kIn}, at::kDouble);
  const at::Tensor half = 0.5 * x + at::randn({kIn}, at::kDouble);
  const at::Tensor other = at::randn({kIn}, at::kDouble);
  for (const StepRule rule : kStepRules) {
    for (const InitialA initial : {InitialA::kUniform, InitialA::kStandardNormal}) {
      const EntryDistribution entries =
          initial == InitialA::kUniform ? EntryDistribution::uniform(kIn) : EntryDistribution::standard_normal();
      for (const int64_t rank : {1, 5}) {
        for (const at::Tensor& other_x : {x, half, other}) {
          const auto [mean, error] = mean_square(rule, initial, rank, x, other_x);
          const double expected = output_second_moment(rule, entries, rank, x, other_x);
          EXPECT_NEAR(mean, expected, 4.0 * error) << static_cast<int>(rule) << " " << rank;
        }
      }
    }
  }
}

// Where A is uniform and x has few entries its kurtosis counts: without it this would be 9 standard errors off.
TEST(OutputSecondMoment, KnowsTheKurtosisOfAUniformA) {
  torch::manual_seed(8);
  const at::Tensor x = at::ones({2}, at::kDouble);
  const auto [mean, error] = mean_square(StepRule::kSgd, InitialA::kUniform, 1, x, x);
  EntryDistribution entries = EntryDistribution::uniform(2);
  EXPECT_NEAR(mean, output_second_moment(StepRule::kSgd, entries, 1, x, x), 4.0 * error);
  entries.excess_kurtosis = 0.0;
  EXPECT_GT(std::abs(mean - output_second_moment(StepRule::kSgd, entries, 1, x, x)), 9.0 * error);
}

// A gradient of three examples, one output of which has none.
TEST(OutputMeanSquare, OfABatchIsTheMeanOverManyA) {
  torch::manual_seed(10);
  constexpr int64_t kSamples = 20000;
  const at::Tensor x = at::randn({3, kIn}, at::kDouble);
  const at::Tensor delta = at::randn({3, kOut}, at::kDouble);
  delta.select(1, 2).zero_();
  const at::Tensor gradient = delta.t().mm(x);
  const at::Tensor inputs = at::cat({x, at::randn({2, kIn}, at::kDouble)});
  const double bound = 1.0 / std::sqrt(static_cast<double>(kIn));
  for (const int64_t rank : {1, 6}) {
    const at::Tensor a = at::empty({kSamples, rank, kIn}, at::kDouble).uniform_(-bound, bound);
    const at::Tensor low = at::matmul(inputs, a.transpose(1, 2)); // [samples, tokens, rank]
    for (const StepRule rule : kStepRules) {
      at::Tensor b = at::matmul(gradient, a.transpose(1, 2)); // [samples, out, rank]
      b = rule == StepRule::kSgd ? b : b.sign();
      const at::Tensor squares = at::matmul(low, b.transpose(1, 2)).square().sum(2).mean(1);
      const double error = squares.std().item<double>() / std::sqrt(static_cast<double>(kSamples));
      EXPECT_NEAR(
          squares.mean().item<double>(),
          output_mean_square(rule, EntryDistribution::uniform(kIn), rank, gradient, inputs), 4.0 * error)
          << static_cast<int>(rule) << " " << rank;
    }
  }
}

// Of one example it is the sum over the outputs of what that example gives.
TEST(OutputMeanSquare, OfOneExampleIsItsSecondMoment) {
  torch::manual_seed(12);
  const at::Tensor x = at::randn({kIn}, at::kDouble);
  const at::Tensor other_x = at::randn({kIn}, at::kDouble);
  const at::Tensor delta = at::randn({kOut}, at::kDouble);
  const EntryDistribution normal = EntryDistribution::standard_normal();
  for (const StepRule rule : kStepRules) {
    const double factor = rule == StepRule::kSgd ? delta.square().sum().item<double>() : static_cast<double>(kOut);
    const double expected = factor * output_second_moment(rule, normal, 5, x, other_x);
    const double found = output_mean_square(rule, normal, 5, at::outer(delta, x), other_x.unsqueeze(0));
    EXPECT_NEAR(found, expected, 1e-12 * expected);
  }
}

// The figures of a Monte Carlo at in = 64 and r = 16 with normal A: 8.18e4 measured, 8.29e4 exact.
TEST(SecondMoment, IsKnownFor64By16) {
  const double exact =
      second_moment(StepRule::kSgd, Change::kIndependentOutput, {64, 1}, EntryDistribution::standard_normal(), 16);
  EXPECT_DOUBLE_EQ(exact, 16.0 * (64.0 * 64.0 + 17.0 * 64.0));
  EXPECT_NEAR(exact, 8.18e4, 0.02 * exact);
}

TEST(SecondMoment, IsThatAtGivenInputsMeanOverInputs) {
  torch::manual_seed(9);
  const EntryDistribution entries = EntryDistribution::uniform(kIn);
  for (const StepRule rule : kStepRules) {
    for (const bool aligned : {true, false}) {
      std::vector<double> values;
      for (int i = 0; i < 20000; ++i) {
        const at::Tensor x = at::randn({kIn}, at::kDouble);
        values.push_back(output_second_moment(rule, entries, 6, x, aligned ? x : at::randn({kIn}, at::kDouble)));
      }
      const at::Tensor all = at::tensor(values, at::kDouble);
      const double error = all.std().item<double>() / std::sqrt(20000.0);
      const Change change = aligned ? Change::kAlignedOutput : Change::kIndependentOutput;
      EXPECT_NEAR(all.mean().item<double>(), second_moment(rule, change, {kIn, 1}, entries, 6), 4.0 * error);
    }
  }
}

TEST(SecondMoment, IsMeasured) {
  for (const InitialA initial : {InitialA::kUniform, InitialA::kStandardNormal}) {
    const auto options = FirstStepOptions().in_features(30).out_features(5).samples(20000).seed(4).initial_a(initial);
    for (const int64_t rank : {1, 3, 12}) {
      const FirstStepMeasurement measured = measure_first_step(options, rank);
      for (const StepRule rule : kStepRules) {
        for (const Change change : kChanges) {
          const MeanSquare& moment = measured.of(rule, change);
          EXPECT_NEAR(
              moment.mean, second_moment(rule, change, options.size(), options.entries(), rank),
              4.0 * moment.standard_error)
              << static_cast<int>(rule) << " " << static_cast<int>(change) << " " << rank;
        }
      }
    }
  }
}

TEST(Measurement, FollowsFromItsSeedWhateverTheThreads) {
  const int threads = at::get_num_threads();
  const auto options = FirstStepOptions().in_features(33).out_features(3).samples(100).seed(1);
  const auto mean = [&](const FirstStepOptions& of) {
    return measure_first_step(of, 4).of(StepRule::kSgd, Change::kWeight).mean;
  };
  at::set_num_threads(1);
  const double alone = mean(options);
  at::set_num_threads(2);
  EXPECT_EQ(mean(options), alone);
  at::set_num_threads(threads);
  EXPECT_NE(mean(FirstStepOptions(options).seed(2)), alone);
}

TEST(Measurement, RefusesOptionsOutOfRange) {
  EXPECT_THROW(measure_first_step(FirstStepOptions().samples(99), 4), c10::ValueError);
  EXPECT_THROW(measure_first_step(FirstStepOptions().in_features(0), 4), c10::ValueError);
  EXPECT_THROW(measure_first_step(FirstStepOptions(), 0), c10::ValueError);
}

// 1 ≪ r ≪ in, where each law is its power of r.
TEST(PredictedExponent, IsTheClosedFormsSlope) {
  const LayerSize size{1 << 24, 8};
  const EntryDistribution entries = EntryDistribution::uniform(size.in_features);
  for (const StepRule rule : kStepRules) {
    for (const Change change : kChanges) {
      for (const RankScale& scale : kRankScales) {
        std::vector<PowerLawPoint> points;
        for (int64_t rank = 512; rank <= 4096; rank *= 2) {
          const double gamma = std::pow(scale.factor(16.0, rank), static_cast<double>(powers_of_scale(rule)));
          points.push_back(
              {static_cast<double>(rank), gamma * std::sqrt(second_moment(rule, change, size, entries, rank))});
        }
        EXPECT_NEAR(fit_power_law(points).exponent, predicted_exponent(rule, change, scale), 2e-3)
            << static_cast<int>(rule) << " " << static_cast<int>(change) << " " << scale.name;
      }
    }
  }
}

} // namespace
} // namespace rora::theory
