// An optimiser of one's own that sees A and B as pairs, in one file: scaled gradient descent with momentum.
#include "support/gradcheck.h"
#include "training.h"

#include <rora/core/low_rank_adapter.h>

#include <gmock/gmock.h>

namespace rora {
namespace {

using testing::TrainingOfToy;

/// Gradients preconditioned by the other factor (Zhang and Pilanci, arXiv 2402.02347), with δ against singular factors:
///
///   gA ← (BᵀB + δI)⁻¹gA,  gB ← gB(AAᵀ + δI)⁻¹;  m ← μm + g;  θ ← θ − η·m
///
/// What is of no pair takes plain steps with momentum.
class ScaledGradientDescent : public Optimizer {
 public:
  explicit ScaledGradientDescent(ParameterTable& parameters, double momentum = 0.9, double damping = 1e-2)
      : Optimizer(parameters), momentum_(momentum), damping_(damping), average_(at::zeros_like(parameters.values())) {}

  std::string name() const override {
    return "ScaledGradientDescent";
  }
  std::vector<std::pair<std::string, at::Tensor>> state() const override {
    return {{"average", average_}};
  }
  std::map<std::string, double> fingerprint() const override {
    return {{"momentum", momentum_}, {"damping", damping_}};
  }

 protected:
  void update(double learning_rate, const at::Tensor& left_out) override {
    at::NoGradGuard no_grad;
    const at::Tensor average = momentum_ * average_ + preconditioned();
    const at::Tensor kept = left_out.defined() ? left_out.eq(0) : at::ones({}, average.options()).to(at::kBool);
    average_.copy_(at::where(kept, average, average_)); // where, as 0 times what is not finite is not 0
    for (const ParameterRange& range : parameters().groups()) {
      const at::Tensor step = average.narrow(0, range.begin, range.size) * (learning_rate * range.group.lr_factor);
      parameters().values().narrow(0, range.begin, range.size).sub_(at::where(kept, step, at::zeros_like(step)));
    }
  }

 private:
  at::Tensor preconditioned() const {
    const at::Tensor gradients = parameters().gradients().clone();
    for (const ParameterPair& pair : parameters().pairs()) {
      const ParameterEntry& a = parameters().entries()[pair.a];
      const ParameterEntry& b = parameters().entries()[pair.b];
      const at::Tensor damping = damping_ * at::eye(a.tensor.size(0), a.tensor.options());
      const at::Tensor of_a = ParameterTable::slice(a, gradients);
      const at::Tensor of_b = ParameterTable::slice(b, gradients);
      of_a.copy_(at::linalg_solve(b.tensor.t().mm(b.tensor) + damping, of_a));
      of_b.copy_(at::linalg_solve(a.tensor.mm(a.tensor.t()) + damping, of_b, /*left=*/false));
    }
    return gradients;
  }

  double momentum_;
  double damping_;
  at::Tensor average_;
};

OptimizerFactory scaled_gradient_descent(double momentum = 0.9) {
  return
      [momentum](ParameterTable& parameters) { return std::make_unique<ScaledGradientDescent>(parameters, momentum); };
}

TrainerOptions options() {
  return TrainerOptions()
      .lr(0.02)
      .max_steps(8)
      .batches(BatchOptions().batch_size(4).seed(5))
      .optimizer(scaled_gradient_descent());
}

/// s·B·A after some steps towards a target, from A/c and c·B.
at::Tensor trained_product(double c) {
  at::manual_seed(9);
  const auto dtype = at::TensorOptions().dtype(at::kDouble);
  Projection projection(at::randn({5, 6}, dtype));
  auto adapter = std::make_shared<LowRankAdapter>(*projection, LowRankOptions().rank(3).alpha(3));
  const at::Tensor x = at::randn({20, 6}, dtype), y = at::randn({20, 5}, dtype);
  {
    at::NoGradGuard no_grad;
    adapter->lora_A.copy_(at::randn({3, 6}, dtype) / c);
    adapter->lora_B.copy_(at::randn({5, 3}, dtype) * c);
  }
  projection->attach("default", adapter);
  torch::nn::ModuleList model(projection);
  ParameterTable parameters(*model);
  ScaledGradientDescent optimizer(parameters, 0.5, /*damping=*/0.0);
  for (int step = 0; step < 6; ++step) {
    parameters.zero_grad();
    (projection->forward(x) - y).square().mean().backward();
    optimizer.step(0.05);
  }
  return adapter->lora_B.detach().mm(adapter->lora_A.detach());
}

TEST(PairOptimizer, MovesTheProductAlikeHoweverItIsDividedBetweenTheFactors) {
  const at::Tensor expected = trained_product(1.0);
  EXPECT_LT(testing::relative_error(trained_product(10.0), expected), 1e-10);
  EXPECT_LT(testing::relative_error(trained_product(0.1), expected), 1e-10);
}

TEST(PairOptimizer, AnUpdateThatIsLeftOutChangesNothing) {
  TrainingOfToy run(options());
  ParameterTable parameters(*run.model);
  ScaledGradientDescent optimizer(parameters);
  const at::Tensor values = parameters.values().clone();
  parameters.gradients().fill_(std::numeric_limits<float>::quiet_NaN());
  optimizer.step(0.1, at::ones({}));
  EXPECT_TRUE(at::equal(parameters.values(), values));
  EXPECT_EQ(optimizer.state()[0].second.abs().sum().item<double>(), 0.0);
}

TEST(PairOptimizer, TrainsAndWhatItSavesLoads) {
  TrainingOfToy run(options().max_steps(60));
  testing::expect_it_learns_and_loads(run);
}

TEST(PairOptimizer, AResumedRunIsTheUninterruptedOneBitForBit) {
  const testing::TemporaryFolder folder;
  const auto resumable = options().output(folder.path()).resume(true);
  testing::expect_resumed_is_uninterrupted<TrainingOfToy>(
      [](const TrainerOptions& each) { return std::make_unique<TrainingOfToy>(each); }, options(), resumable);
  TrainingOfToy other(TrainerOptions(resumable).optimizer(scaled_gradient_descent(0.8)));
  EXPECT_THROW(other.trainer->restore(), FormatError) << "another momentum is another run";
  TrainingOfToy adamw(TrainerOptions(resumable).optimizer(nullptr));
  EXPECT_THROW(adamw.trainer->restore(), FormatError) << "another optimiser is another run";
}

} // namespace
} // namespace rora
