#include <rora/theory/growth.h>

#include "support/tiny_llama.h"

#include <rora/adapters/attach.h>
#include <rora/core/projection.h>
#include <rora/theory/first_step.h>
#include <rora/training/trainer.h>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include <cmath>

namespace rora::theory {
namespace {

using rora::testing::tiny_llama;

ModelInput some_tokens() {
  ModelInput input;
  input.input_ids = at::remainder(5 * at::arange(12, at::kLong) + 3, 32).view({2, 6});
  return input;
}

AdapterOptions adapters(int64_t rank) {
  return AdapterOptions().low_rank(LowRankOptions().rank(rank).alpha(8));
}

ProjectionImpl& projection(const CausalLM& model, const std::string& name) {
  return *(*model->named_modules().find(name))->as<ProjectionImpl>();
}

TEST(CaptureInputs, GivesWhatEntersEachProjection) {
  CausalLM model = tiny_llama();
  const auto modules = target_modules(*model, adapters(4));
  const ProjectionInputs inputs = capture_inputs(model, modules, some_tokens());
  EXPECT_EQ(inputs.size(), modules.size());
  for (const auto& [module, x] : inputs) {
    EXPECT_EQ(x.sizes(), (at::IntArrayRef{12, projection(model, module).in_features()}));
    EXPECT_TRUE(projection(model, module).adapters().empty()); // the recorders are gone
  }
  // What leaves gate and up is what enters down.
  const at::Tensor x = inputs.at("model.layers.0.mlp.gate_proj");
  EXPECT_TRUE(x.is_same(inputs.at("model.layers.0.mlp.up_proj")));
  const at::Tensor gate = projection(model, "model.layers.0.mlp.gate_proj").forward(x);
  const at::Tensor up = projection(model, "model.layers.0.mlp.up_proj").forward(x);
  EXPECT_TRUE(at::allclose(at::silu(gate) * up, inputs.at("model.layers.0.mlp.down_proj"), 1e-4, 1e-6));
}

TEST(CaptureInputs, LeavesPaddingOut) {
  CausalLM model = tiny_llama();
  ModelInput input = some_tokens();
  input.attention_mask = at::ones({2, 6}, at::kLong);
  input.attention_mask.slice(1, 4).select(0, 1).zero_();
  const auto inputs = capture_inputs(model, {"model.layers.1.self_attn.q_proj"}, input);
  EXPECT_EQ(inputs.begin()->second.size(0), 10);
}

TEST(CaptureInputs, RefusesWhatIsNoProjectionAndWhatIsAdapted) {
  CausalLM model = tiny_llama();
  EXPECT_THROW(capture_inputs(model, {"model.norm"}, some_tokens()), c10::ValueError);
  attach_adapters(*model, adapters(4));
  EXPECT_THROW(capture_inputs(model, {"model.layers.0.mlp.up_proj"}, some_tokens()), c10::ValueError);
}

TEST(MeasureGrowth, IsTheNormOfTheDenseChange) {
  CausalLM model = tiny_llama();
  const auto modules = target_modules(*model, adapters(4));
  const ProjectionInputs inputs = capture_inputs(model, modules, some_tokens());
  EXPECT_THROW(measure_growth(*model, inputs), c10::ValueError); // nothing is attached
  attach_adapters(*model, adapters(4));
  for (const ProjectionGrowth& each : measure_growth(*model, inputs)) {
    EXPECT_EQ(each.weight, 0.0); // B = 0
    EXPECT_EQ(each.output, 0.0);
  }
  at::NoGradGuard no_grad;
  for (at::Tensor& parameter : adapter_parameters(*model)) {
    parameter.normal_();
  }
  for (const ProjectionGrowth& each : measure_growth(*model, inputs)) {
    const LowRankPair pair = projection(model, each.module).active_adapter()->pairs().at(0);
    const at::Tensor change = pair.scale * pair.b.mm(pair.a);
    EXPECT_NEAR(each.weight, change.norm().item<double>(), 1e-4 * each.weight);
    const at::Tensor squares = inputs.at(each.module).mm(change.t()).square().sum(1);
    EXPECT_NEAR(each.output, std::sqrt(squares.mean().item<double>()), 1e-4 * each.output);
  }
}

std::vector<Example> examples() {
  std::vector<Example> all;
  for (int64_t i = 0; i < 4; ++i) {
    Example example;
    for (int64_t k = 0; k < 6; ++k) {
      example.input_ids.push_back((7 * i + 3 * k) % 32);
    }
    example.labels = example.input_ids;
    all.push_back(example);
  }
  return all;
}

TEST(GrowthHook, MeasuresBehindTheChosenSteps) {
  CausalLM model = tiny_llama();
  const auto modules = target_modules(*model, adapters(4));
  auto hook = std::make_shared<GrowthHook>(capture_inputs(model, modules, some_tokens()), std::set<int64_t>{1, 3});
  attach_adapters(*model, adapters(4));
  Trainer trainer(model, examples(), TrainerOptions().lr(1e-2).max_steps(4).batches(BatchOptions().batch_size(2)));
  trainer.add_hook(hook);
  trainer.train();
  ASSERT_EQ(hook->measured().size(), 2u);
  EXPECT_EQ(hook->measured().count(1) + hook->measured().count(3), 2u);
  for (size_t i = 0; i < modules.size(); ++i) {
    EXPECT_GT(hook->measured().at(1)[i].output, 0.0);
    EXPECT_GT(hook->measured().at(3)[i].weight, hook->measured().at(1)[i].weight);
  }
}

// Over all projections and many A, the first step of a training is what the closed form says of its batch's gradient.
TEST(LossGradients, TellTheFirstStepOfATraining) {
  constexpr int64_t kRank = 6;
  constexpr double kRate = 1e-3;
  constexpr int kDraws = 60;
  CausalLM model = tiny_llama();
  const auto modules = target_modules(*model, adapters(kRank));
  const Batch batch = make_batch(examples(), {{0}, {1}, {2}, {3}});
  ModelInput input;
  input.input_ids = batch.input_ids;
  const auto gradients = loss_gradients(model, modules, input, batch.labels);
  const ProjectionInputs inputs = capture_inputs(model, modules, some_tokens());
  std::vector<double> ratios;
  for (int draw = 0; draw < kDraws; ++draw) {
    at::manual_seed(100 + static_cast<uint64_t>(draw)); // anew, as a training leaves the generator where it likes
    auto hook = std::make_shared<GrowthHook>(inputs, std::set<int64_t>{1});
    attach_adapters(*model, adapters(kRank));
    Trainer trainer(
        model, examples(),
        TrainerOptions().lr(kRate).schedule(Schedule::kConstant).max_steps(1).batches(BatchOptions().batch_size(4)));
    trainer.add_hook(hook);
    const double scale = projection(model, modules[0]).active_adapter()->pairs().at(0).scale;
    trainer.train();
    detach_adapters(*model);
    for (const ProjectionGrowth& each : hook->measured().at(1)) {
      const at::Tensor& x = inputs.at(each.module);
      const double expected = output_mean_square(
          StepRule::kAdamW, EntryDistribution::uniform(x.size(1)), kRank, gradients.at(each.module), x);
      ratios.push_back(each.output * each.output / (scale * scale * kRate * kRate * expected));
    }
  }
  const at::Tensor all = at::tensor(ratios, at::kDouble);
  const double error = all.std().item<double>() / std::sqrt(static_cast<double>(ratios.size()));
  EXPECT_LT(error, 0.03);
  EXPECT_NEAR(all.mean().item<double>(), 1.0, 4.0 * error + 0.02); // AdamW's ε takes a little of small gradients
}

} // namespace
} // namespace rora::theory
