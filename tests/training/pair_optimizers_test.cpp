// What holds of every optimiser on pairs, in a trainer's hands.
#include "support/gradcheck.h"
#include "support/test_data.h"
#include "trainer_support.h"

#include <rora/adapters/peft_folder.h>
#include <rora/core/low_rank_adapter.h>
#include <rora/error.h>
#include <rora/evaluation/perplexity.h>
#include <rora/training/lora_fa.h>
#include <rora/training/lora_pro.h>
#include <rora/training/lora_rite.h>
#include <rora/training/memory_estimate.h>
#include <rora/training/scaled_gd.h>

#include <gtest/gtest.h>

#include <limits>

namespace rora {
namespace {

using testing::counting;
using testing::flat;
using testing::TemporaryFolder;

struct Tried {
  const char* name;
  OptimizerFactory (*make)(double weight_decay);
  bool freezes_a = false;
};

const Tried kAll[] = {
    {"lora_rite", [](double decay) { return lora_rite(LoraRiteOptions().weight_decay(decay)); }},
    {"lora_fa", [](double decay) { return lora_fa(LoraFaOptions().weight_decay(decay)); }, /*freezes_a=*/true},
    {"lora_pro", [](double decay) { return lora_pro(LoraProOptions().adamw(AdamWOptions().weight_decay(decay))); }},
    {"lora_pro_full",
     [](double decay) { return lora_pro(LoraProOptions().adamw(AdamWOptions().weight_decay(decay)).full(true)); }},
    {"scaled_gd", [](double decay) { return scaled_gd(ScaledGDOptions().adamw(AdamWOptions().weight_decay(decay))); }}};

class PairOptimizers : public ::testing::TestWithParam<Tried> {
 protected:
  /// The counting model with an adapter, DoRA's so that not all is a pair.
  DecoderForCausalLM model(bool dora = true) const {
    auto model = testing::tiny_llama();
    at::manual_seed(31);
    attach_adapters(*model, AdapterOptions().low_rank(LowRankOptions().rank(4).alpha(8).dora(dora)));
    if (GetParam().freezes_a) {
      freeze_a(*model);
    }
    return model;
  }

  OptimizerFactory make(double weight_decay = 0.0) const {
    return GetParam().make(weight_decay);
  }

  TrainerOptions options() const {
    return testing::options().lr(1e-2).clip(0.0).optimizer(make());
  }
};

TEST_P(PairOptimizers, AResumedRunIsTheUninterruptedOneBitForBit) {
  auto whole = model();
  Trainer(whole, counting(24), options()).train();
  const TemporaryFolder folder;
  const auto resumable = options().output(folder.path()).resume(true);
  const auto trainer = [&](DecoderForCausalLM& own, const TrainerOptions& chosen) {
    auto made = std::make_unique<Trainer>(own, counting(24), chosen);
    made->set_save([&own](const std::filesystem::path& path) { save_adapter(*own, path); });
    return made;
  };
  auto first = model();
  auto stopped = trainer(first, resumable);
  stopped->set_callback([&](const StepMetrics& metrics) {
    if (metrics.step == 3) {
      stopped->request_stop();
    }
  });
  EXPECT_TRUE(stopped->train().interrupted);
  EXPECT_FALSE(at::equal(flat(first), flat(whole)));
  auto second = model();
  auto resumed = trainer(second, resumable);
  EXPECT_EQ(resumed->restore(), 3);
  resumed->train();
  EXPECT_TRUE(at::equal(flat(second), flat(whole)));
  auto third = model();
  EXPECT_THROW(trainer(third, TrainerOptions(resumable).optimizer(make(0.5)))->restore(), FormatError);
  auto fourth = model();
  EXPECT_THROW(trainer(fourth, TrainerOptions(resumable).optimizer(nullptr))->restore(), FormatError);
}

TEST_P(PairOptimizers, LearnsToCountAndWhatItSavesLoads) {
  auto own = model(/*dora=*/false);
  const double before = evaluate_perplexity(own, counting(24)).loss;
  Trainer(own, counting(24), options().max_steps(80)).train();
  const double after = evaluate_perplexity(own, counting(24)).loss;
  EXPECT_LT(after, 0.7 * before);
  const TemporaryFolder folder;
  save_adapter(*own, folder.path());
  auto loaded = testing::tiny_llama();
  load_adapter(*loaded, folder.path());
  EXPECT_EQ(evaluate_perplexity(loaded, counting(24)).loss, after);
}

TEST_P(PairOptimizers, AnUpdateThatIsLeftOutChangesNothing) {
  auto own = model();
  ParameterTable parameters(*own);
  const auto optimizer = make(0.1)(parameters);
  const auto state = [&] {
    std::vector<at::Tensor> all{parameters.values().clone()};
    for (const auto& [name, tensor] : optimizer->state()) {
      all.push_back(tensor.flatten().clone());
    }
    return at::cat(all);
  };
  const at::Tensor begun = state();
  at::manual_seed(1);
  parameters.gradients().normal_(0.0, 0.01);
  optimizer->step(1e-3, at::zeros({}));
  const at::Tensor before = state();
  EXPECT_FALSE(at::equal(before, begun));
  parameters.gradients().fill_(std::numeric_limits<float>::quiet_NaN());
  optimizer->step(1e-3, at::ones({}));
  EXPECT_TRUE(at::equal(state(), before));
}

TEST_P(PairOptimizers, GroupsDecideRateAndDecay) {
  const auto values_after = [&](const GroupOf& groups) {
    auto own = model();
    std::map<std::string, at::Tensor> values;
    {
      ParameterTable parameters(*own, groups);
      at::manual_seed(1);
      const auto optimizer = make()(parameters);
      for (const ParameterEntry& each : parameters.entries()) {
        at::manual_seed(std::hash<std::string>()(each.name));
        ParameterTable::slice(each, parameters.values()).normal_();
        ParameterTable::slice(each, parameters.gradients()).normal_(0.0, 0.01);
      }
      optimizer->step(0.01);
      for (const ParameterEntry& each : parameters.entries()) {
        values[each.name] = each.tensor.detach().clone();
      }
    }
    return values;
  };
  const auto frozen = values_after([](const ParameterEntry&) { return ParameterGroup{0.0, {}}; });
  const auto plain = values_after(nullptr);
  const auto others = values_after([](const ParameterEntry& entry) {
    return entry.role == ParameterRole::kB ? ParameterGroup{0.5, {}} : ParameterGroup{1.0, 10.0};
  });
  for (const auto& [name, begun] : frozen) {
    const bool is_b = name.ends_with("lora_B");
    const at::Tensor step = plain.at(name) - begun;
    ASSERT_GT(step.abs().max().item<double>(), 0.0) << name;
    const at::Tensor expected = is_b ? begun + 0.5 * step : begun + step - 0.1 * begun;
    EXPECT_LT(testing::relative_error(others.at(name), expected), 2e-3) << name; // decay may come before or behind
  }
}

TEST_P(PairOptimizers, WhatIsInNoPairTakesAdamWsSteps) {
  const auto magnitudes = [&](const OptimizerFactory& factory) {
    auto own = model();
    ParameterTable parameters(*own);
    const auto optimizer = factory(parameters);
    at::manual_seed(1);
    std::vector<at::Tensor> found;
    for (int step = 0; step < 3; ++step) {
      for (const ParameterEntry& each : parameters.entries()) {
        at::manual_seed(std::hash<std::string>()(each.name) + static_cast<uint64_t>(step));
        ParameterTable::slice(each, parameters.gradients()).normal_();
      }
      optimizer->step(1e-2);
    }
    for (const ParameterEntry& each : parameters.entries()) {
      if (each.role == ParameterRole::kMagnitude) {
        found.push_back(each.tensor.detach().clone());
      }
    }
    return at::cat(found);
  };
  const at::Tensor expected =
      magnitudes([](ParameterTable& parameters) { return std::make_unique<AdamW>(parameters); });
  const double another_eps = GetParam().freezes_a ? 1e-3 : 0.0; // LoRA-FA's, before the bias is corrected
  EXPECT_LT(testing::relative_error(magnitudes(make()), expected), 1e-6 + another_eps);
}

TEST_P(PairOptimizers, RefusesWhatHasNoPairs) {
  ParameterTable loose({{"x", at::ones({3, 3}).set_requires_grad(true)}});
  EXPECT_THROW(make()(loose), c10::ValueError);
}

TEST_P(PairOptimizers, TheEstimateCountsItsState) {
  auto own = model();
  const Trainer trainer(own, counting(24), options());
  const int64_t bytes = trainer.optimizer().state_bytes();
  int64_t kept = 0, weights = 0;
  for (const ParameterPair& pair : trainer.parameters().pairs()) {
    const auto& entries = trainer.parameters().entries();
    const int64_t rank = entries[pair.a].tensor.size(0);
    kept += 2 * rank * rank;
    weights += 2 * entries[pair.b].tensor.size(0) * entries[pair.a].tensor.size(1);
  }
  const std::string name = GetParam().name;
  int64_t factors = 0, all = trainer.parameters().values().numel();
  for (const ParameterEntry& each : trainer.parameters().entries()) {
    factors += each.pair ? each.size : 0;
  }
  const int64_t expected = name == "lora_rite" ? 2 * all + kept
      : name == "lora_pro_full"                ? 2 * (all - factors) + weights
                                               : 2 * all;
  EXPECT_EQ(bytes, 4 * expected);
  EXPECT_EQ(estimate_memory(own, BatchShape{2, 8, 14}, false, bytes).optimizer, bytes);
}

INSTANTIATE_TEST_SUITE_P(All, PairOptimizers, ::testing::ValuesIn(kAll), [](const auto& info) {
  return std::string(info.param.name);
});

TEST(LoraFaRun, LeavesAAsItIsAndKeepsNoInputForIt) {
  auto model = testing::adapted();
  std::map<std::string, at::Tensor> before;
  for (const auto& [name, tensor] : named_adapter_parameters(*model)) {
    before[name] = tensor.detach().clone();
  }
  const BatchShape shape{4, 8, 28};
  const int64_t with_inputs = estimate_memory(model, shape).activations;
  freeze_a(*model);
  EXPECT_LT(estimate_memory(model, shape).activations, with_inputs);
  Trainer(model, counting(24), testing::options().optimizer(lora_fa())).train();
  for (const auto& [name, tensor] : named_adapter_parameters(*model)) {
    EXPECT_EQ(at::equal(tensor, before.at(name)), name.ends_with("lora_A")) << name;
  }
}

} // namespace
} // namespace rora
