#include "support/golden.h"
#include "support/gradcheck.h"

#include <rora/model/decoder.h>
#include <rora/adapters/attach.h>
#include <rora/adapters/peft_folder.h>
#include <rora/checkpoint/model_folder.h>
#include <rora/checkpoint/safetensors.h>
#include <rora/model/pretrained.h>
#include <rora/model/generation.h>
#include <rora/training/adamw.h>
#include <rora/training/parameter_table.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace rora {
namespace {

using testing::Golden;
using testing::GoldenAdapter;
using testing::GreedyPrompts;
using testing::logits_error;
using testing::relative_error;

// Right implementations differ ten times less; looser bounds would let a wrong weight decay or epsilon through.
constexpr double kLogitsTolerance = 1e-5;
constexpr double kLossTolerance = 5e-6;
constexpr double kGradientTolerance = 1e-4;
constexpr double kTraceTolerance = 2e-5;
constexpr double kMergedTolerance = 1e-6;

double difference(double found, double stored) {
  return std::abs(found - stored) / std::abs(stored);
}

at::Tensor mean(const LossSum& loss) {
  return loss.sum / static_cast<double>(loss.tokens);
}

/// A golden's model, fed what the golden was fed.
struct GoldenRun {
  explicit GoldenRun(const Golden& golden)
      : model(load_model(golden.model, at::kFloat)), base(golden.answers / "base.safetensors") {
    input.input_ids = base.tensor("input_ids");
    labels = base.tensor("labels");
  }

  at::Tensor logits() {
    at::NoGradGuard no_grad;
    return model->forward(input);
  }

  at::Tensor loss() {
    return mean(model->loss(input, labels));
  }

  CausalLM model;
  SafetensorsFile base;
  ModelInput input;
  at::Tensor labels;
};

class TransformersGolden : public ::testing::TestWithParam<Golden> {};

TEST_P(TransformersGolden, LogitsAndLossAgree) {
  GoldenRun run(GetParam());
  EXPECT_LT(logits_error(run.logits(), run.base.tensor("logits")), kLogitsTolerance);
  EXPECT_LT(difference(run.loss().item<double>(), run.base.tensor("loss").item<double>()), kLossTolerance);
}

TEST_P(TransformersGolden, GreedyContinuationsAgree) {
  GoldenRun run(GetParam());
  const GreedyPrompts greedy = testing::read_greedy(GetParam().answers / "text.json");
  ASSERT_FALSE(greedy.prompts.empty());
  const auto options = GenerationOptions().max_new_tokens(24);
  for (size_t i = 0; i < greedy.prompts.size(); ++i) {
    EXPECT_EQ(generate(run.model, {greedy.prompts[i]}, options)[0], greedy.continuations[i]);
  }
  EXPECT_EQ(generate(run.model, greedy.prompts, options), greedy.continuations) << "in one batch, padded on the left";
}

class PeftGolden : public ::testing::TestWithParam<GoldenAdapter> {
 protected:
  PeftGolden()
      : run(GetParam().golden), folder(GetParam().golden.model), answers(GetParam().folder / "answers.safetensors") {
    load_adapter(*run.model, GetParam().folder);
    run.model->train();
  }

  /// Trains on the golden's batch and compares the loss before each update.
  void expect_trace(const at::Tensor& stored, double learning_rate, const AdamWOptions& options) {
    ParameterTable parameters(*run.model);
    AdamW optimizer(parameters, options);
    for (int64_t step = 0; step < stored.size(0); ++step) {
      parameters.zero_grad();
      const at::Tensor loss = run.loss();
      loss.backward();
      optimizer.step(learning_rate);
      EXPECT_LT(difference(loss.item<double>(), stored[step].item<double>()), kTraceTolerance) << "step " << step;
    }
  }

  /// The model's parameters but for the adapter's.
  NamedTensors frozen() {
    NamedTensors weights;
    for (const auto& item : run.model->named_parameters()) {
      if (!item.value().requires_grad()) {
        weights.emplace_back(item.key(), item.value());
      }
    }
    return weights;
  }

  /// A tied table may be stored under its other name alone.
  at::Tensor stored_weight(const std::string& name) {
    const std::string other = name == "lm_head.weight" ? "model.embed_tokens.weight" : "lm_head.weight";
    return folder.tensor(folder.contains(name) ? name : other).to(at::kFloat);
  }

  GoldenRun run;
  ModelFolder folder;
  SafetensorsFile answers;
};

TEST_P(PeftGolden, LogitsAndLossAgree) {
  EXPECT_LT(logits_error(run.logits(), answers.tensor("logits")), kLogitsTolerance);
  EXPECT_LT(difference(run.loss().item<double>(), answers.tensor("loss").item<double>()), kLossTolerance);
}

TEST_P(PeftGolden, GradientsAgree) {
  run.loss().backward();
  const auto parameters = named_adapter_parameters(*run.model);
  for (const auto& [name, parameter] : parameters) {
    // PEFT's names of adapters in memory all end in ".weight", the magnitude's too, unlike those in its files.
    const std::string key = "grad.base_model.model." + name;
    const at::Tensor stored = answers.tensor(answers.contains(key) ? key : key + ".weight");
    EXPECT_LT(relative_error(parameter.grad(), stored), kGradientTolerance) << name;
  }
  const auto is_gradient = [](const std::string& name) { return name.starts_with("grad."); };
  EXPECT_EQ(std::count_if(answers.names().begin(), answers.names().end(), is_gradient), std::ssize(parameters));
}

TEST_P(PeftGolden, AdamWLossesAgree) {
  expect_trace(answers.tensor("adamw_losses"), 1e-3, AdamWOptions());
}

TEST_P(PeftGolden, AdamWLossesUnderOtherOptionsAgree) {
  if (!answers.contains("other_adamw_losses")) {
    GTEST_SKIP() << "this folder of golden answers has no AdamW losses under other options";
  }
  const at::Tensor stored = answers.tensor("other_adamw_options");
  const double* option = stored.data_ptr<double>();
  const auto options = AdamWOptions().beta1(option[1]).beta2(option[2]).eps(option[3]).weight_decay(option[4]);
  expect_trace(answers.tensor("other_adamw_losses"), option[0], options);
}

TEST_P(PeftGolden, TrainingKeepsTheBytesOfTheFrozenWeights) {
  ParameterTable parameters(*run.model);
  AdamW optimizer(parameters, AdamWOptions().weight_decay(0.1));
  for (int step = 0; step < 3; ++step) {
    run.loss().backward();
    optimizer.step(1e-2);
  }
  for (const auto& [name, weight] : frozen()) {
    EXPECT_TRUE(at::equal(weight, stored_weight(name))) << name;
    EXPECT_FALSE(weight.grad().defined()) << name;
  }
}

TEST_P(PeftGolden, MergedWeightsAgreeAndOthersKeepTheirBytes) {
  const auto is_merged = [](const std::string& name) { return name.starts_with("merged."); };
  if (std::none_of(answers.names().begin(), answers.names().end(), is_merged)) {
    GTEST_SKIP() << "this folder of golden answers has no merged weights";
  }
  merge_adapters(*run.model);
  for (const auto& [name, weight] : frozen()) {
    if (answers.contains("merged." + name)) {
      EXPECT_LT(relative_error(weight, answers.tensor("merged." + name)), kMergedTolerance) << name;
    } else {
      EXPECT_TRUE(at::equal(weight, stored_weight(name))) << name;
    }
  }
  unmerge_adapters(*run.model);
  for (const auto& [name, weight] : frozen()) {
    EXPECT_TRUE(at::equal(weight, stored_weight(name))) << name;
  }
}

const auto kName = [](const auto& info) { return info.param.name; };
INSTANTIATE_TEST_SUITE_P(, TransformersGolden, ::testing::ValuesIn(testing::goldens()), kName);
INSTANTIATE_TEST_SUITE_P(, PeftGolden, ::testing::ValuesIn(testing::golden_adapters()), kName);

} // namespace
} // namespace rora
