// An optimiser of one's own that sees A and B as pairs, in one file: scaled gradient descent with momentum.
#include "support/gradcheck.h"
#include "support/test_data.h"
#include "support/tiny_llama.h"

#include <rora/adapters/attach.h>
#include <rora/adapters/peft_folder.h>
#include <rora/core/low_rank_adapter.h>
#include <rora/error.h>
#include <rora/evaluation/perplexity.h>
#include <rora/training/trainer.h>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace rora {
namespace {

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

/// Sequences that count upwards.
std::vector<Example> counting(int64_t count) {
  std::vector<Example> examples;
  for (int64_t i = 0; i < count; ++i) {
    Example example;
    for (int64_t place = 0; place < 5 + i % 4; ++place) {
      example.input_ids.push_back((3 * i + place) % 32);
    }
    example.labels = example.input_ids;
    examples.push_back(example);
  }
  return examples;
}

/// One trainer's whole life: model, adapter, run.
struct TrainingOfToy {
  explicit TrainingOfToy(const TrainerOptions& options) : model(testing::tiny_llama()) {
    at::manual_seed(3);
    attach_adapters(*model, AdapterOptions().low_rank(LowRankOptions().rank(4).alpha(8).dropout(0.1)));
    trainer.emplace(model, counting(24), options);
    trainer->set_save([this](const std::filesystem::path& path) { save_adapter(*model, path); });
  }

  at::Tensor values() const {
    return trainer->parameters().values().clone();
  }

  DecoderForCausalLM model;
  std::optional<Trainer> trainer;
};

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
  const testing::TemporaryFolder folder;
  TrainingOfToy run(options().max_steps(60));
  const double before = evaluate_perplexity(run.model, counting(24)).loss;
  run.trainer->train();
  const double after = evaluate_perplexity(run.model, counting(24)).loss;
  EXPECT_LT(after, 0.7 * before);
  save_adapter(*run.model, folder.path());
  auto loaded = testing::tiny_llama();
  load_adapter(*loaded, folder.path());
  EXPECT_EQ(evaluate_perplexity(loaded, counting(24)).loss, after);
}

TEST(PairOptimizer, AResumedRunIsTheUninterruptedOneBitForBit) {
  TrainingOfToy whole(options());
  whole.trainer->train();
  const testing::TemporaryFolder folder;
  const auto resumable = options().output(folder.path()).resume(true);
  TrainingOfToy first(resumable);
  first.trainer->set_callback([&](const StepMetrics& metrics) {
    if (metrics.step == 3) {
      first.trainer->request_stop();
    }
  });
  EXPECT_TRUE(first.trainer->train().interrupted);
  TrainingOfToy second(resumable);
  EXPECT_EQ(second.trainer->restore(), 3);
  second.trainer->train();
  EXPECT_TRUE(at::equal(second.values(), whole.values()));
  TrainingOfToy other(TrainerOptions(resumable).optimizer(scaled_gradient_descent(0.8)));
  EXPECT_THROW(other.trainer->restore(), FormatError) << "another momentum is another run";
  TrainingOfToy adamw(TrainerOptions(resumable).optimizer(nullptr));
  EXPECT_THROW(adamw.trainer->restore(), FormatError) << "another optimiser is another run";
}

} // namespace
} // namespace rora
