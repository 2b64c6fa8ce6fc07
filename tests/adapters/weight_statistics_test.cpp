#include "initializers/support.h"
#include "support/golden.h"
#include "support/test_data.h"

#include <rora/adapters/initializers/eva.h>
#include <rora/adapters/initializers/gora.h>
#include <rora/adapters/initializers/lora_ga.h>
#include <rora/adapters/initializers/olora.h>
#include <rora/adapters/initializers/singular_vectors.h>
#include <rora/checkpoint/file.h>
#include <rora/checkpoint/safetensors.h>
#include <rora/error.h>
#include <rora/model/pretrained.h>

#include <gmock/gmock.h>

#include <limits>

namespace rora {
namespace {

using namespace rora::testing;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

const std::string kModule = "model.layers.1.mlp.down_proj";

/// Reads a gradient and moments, and keeps both whole.
class Whole : public Initializer {
 public:
  std::string name() const override {
    return "whole";
  }
  bool needs_gradient() const override {
    return true;
  }
  bool needs_input_moment() const override {
    return true;
  }
  void initialize(const ProjectionImpl&, const WeightStatistics&, InitialFactors factors) const override {
    factors.a.zero_();
    factors.b.zero_();
  }
};

AdapterOptions whole() {
  return beginning_with(std::make_shared<Whole>());
}

at::Tensor logits_of(CausalLM model) {
  at::NoGradGuard no_grad;
  return model->forward(counting_batch(0).input);
}

TEST(CaptureStatistics, GivesTheSameInGroupsOfAFewWeights) {
  auto model = tiny_llama();
  const auto at_once = captured(model, whole());
  int64_t batches = 0;
  const auto count = [&](int64_t i) {
    ++batches;
    return counting_batch(i);
  };
  const auto in_groups = capture_statistics(model, whole(), CaptureOptions().batches(4).memory(20000), count);
  EXPECT_GT(batches, 16) << "passes over 4 batches, for gradients and for moments";
  ASSERT_EQ(in_groups.size(), 14);
  for (const auto& [module, own] : at_once) {
    EXPECT_LT(relative_error(in_groups.at(module).gradient, own.gradient), 1e-5) << module;
    EXPECT_TRUE(at::equal(in_groups.at(module).input_moment, own.input_moment)) << module;
    EXPECT_TRUE(at::equal(in_groups.at(module).input_mean, own.input_mean)) << module;
  }
}

TEST(CaptureStatistics, EndsBehindABatchThatChangesNoWeightsImportance) {
  auto model = tiny_llama();
  const auto options = beginning_with(gora(GoRAOptions().min_rank(1).max_rank(8)));
  int64_t read = 0;
  const auto captured_until = [&](double settled, const std::function<int64_t(int64_t)>& number) {
    return capture_statistics(model, options, CaptureOptions().batches(12).settled(settled), [&](int64_t i) {
      read = i + 1;
      return counting_batch(number(i));
    });
  };
  // Of the same batch again and again the third is the first that is looked at, and the fourth changes nothing.
  const auto settled = captured_until(0.1, [](int64_t) { return 0; });
  EXPECT_EQ(read, 4);
  const auto of_one = capture_statistics(model, options, CaptureOptions().batches(1), counting_batch);
  for (const auto& [module, own] : of_one) {
    const double expected = own.condensed.at("importance").item<double>();
    EXPECT_NEAR(settled.at(module).condensed.at("importance").item<double>() / expected, 1.0, 1e-4) << module;
  }
  captured_until(1e-9, [](int64_t i) { return i; });
  EXPECT_EQ(read, 12) << "each of these is another";
  EXPECT_THROW(captured_until(-0.1, [](int64_t i) { return i; }), c10::ValueError);
}

TEST(CaptureStatistics, CountsLabelledTokensAlone) {
  auto model = tiny_llama();
  const auto options = whole().target_modules(std::vector<std::string>{"layers.0.self_attn.q_proj"});
  const auto statistics = captured(model, options).at("model.layers.0.self_attn.q_proj");
  at::NoGradGuard no_grad;
  std::vector<at::Tensor> rows;
  for (int64_t i = 0; i < 4; ++i) {
    const CaptureBatch batch = counting_batch(i);
    const at::Tensor states = model->embed(batch.input.input_ids);
    const at::Tensor weight = model->named_parameters()["model.layers.0.input_layernorm.weight"];
    const at::Tensor input = states * (states.square().mean(-1, true) + model->options.rms_norm_eps()).rsqrt() * weight;
    rows.push_back(input.index({batch.labels.ne(-100)}));
  }
  const at::Tensor inputs = at::cat(rows).to(at::kDouble);
  EXPECT_EQ(inputs.size(0), 4 * 2 * 6);
  EXPECT_LT(relative_error(statistics.input_mean, inputs.mean(0)), 1e-5);
  EXPECT_LT(relative_error(statistics.input_moment, inputs.t().mm(inputs) / 48.0), 1e-5);
}

TEST(CaptureStatistics, LeavesTheModelAsItWas) {
  auto model = tiny_llama();
  at::manual_seed(3);
  attach_adapters(*model, AdapterOptions().low_rank(LowRankOptions().rank(2)), "mine");
  for (const auto& [name, tensor] : named_adapter_parameters(*model, "mine")) {
    at::NoGradGuard no_grad;
    at::Tensor(tensor).normal_(0.0, 0.1);
  }
  const at::Tensor before = logits_of(model);
  const auto expect_as_before = [&] {
    EXPECT_TRUE(at::equal(logits_of(model), before));
    for (const auto& item : model->named_parameters()) {
      EXPECT_EQ(item.value().requires_grad(), item.key().find("lora_") != std::string::npos) << item.key();
    }
  };
  captured(model, whole());
  expect_as_before();
  const auto stopped = [](int64_t i) {
    if (i == 2) {
      throw std::runtime_error("stopped");
    }
    return counting_batch(i);
  };
  EXPECT_THROW(capture_statistics(model, whole(), CaptureOptions().batches(4), stopped), std::runtime_error);
  expect_as_before();
  EXPECT_THROW(
      capture_statistics(model, beginning_with(eva()), CaptureOptions().batches(4), stopped), std::runtime_error);
  expect_as_before();
}

TEST(CaptureStatistics, SaysWhichWeightsGradientIsNotFinite) {
  auto model = tiny_llama();
  {
    at::NoGradGuard no_grad;
    at::Tensor(model->named_parameters()["model.layers.0.mlp.down_proj.weight"])[0][0] =
        std::numeric_limits<float>::infinity();
  }
  EXPECT_THAT(
      [&] { captured(model, beginning_with(gora())); },
      ThrowsMessage<c10::ValueError>(HasSubstr("its gradient is not finite")));
  EXPECT_THAT(
      [&] { captured(model, beginning_with(eva())); }, ThrowsMessage<c10::ValueError>(HasSubstr("is not finite")));
}

TEST(CaptureStatistics, RefusesBatchesWithoutLabels) {
  auto model = tiny_llama();
  const auto unlabelled = [](int64_t i) {
    CaptureBatch batch = counting_batch(i);
    batch.labels = at::full_like(batch.labels, -100);
    return batch;
  };
  for (const auto& initializer : {gora(), eva()}) {
    EXPECT_THROW(capture_statistics(model, beginning_with(initializer), {}, unlabelled), c10::ValueError);
  }
  EXPECT_THROW(capture_statistics(model, whole(), CaptureOptions().batches(0), unlabelled), c10::ValueError);
}

TEST(CaptureStatistics, CapturesNothingForWhatReadsNothing) {
  auto model = tiny_llama();
  const auto never = [](int64_t i) {
    ADD_FAILURE() << "a batch is run";
    return counting_batch(i);
  };
  EXPECT_TRUE(capture_statistics(model, beginning_with(pissa()), {}, never).empty());
  EXPECT_TRUE(capture_statistics(model, AdapterOptions(), {}, never).empty());
}

TEST(StatisticsFile, HoldsWhatWasSavedAndTheSameBytesWhenSavedAgain) {
  const TemporaryFolder folder;
  auto model = tiny_llama();
  const std::map<std::string, std::string> made_from{{"batches", "4"}};
  auto statistics = captured(model, whole());
  statistics[kModule].condensed["own"] = at::ones({2, 3});
  save_statistics(folder / "a", statistics, made_from);
  const auto loaded = load_statistics(folder / "a", made_from);
  ASSERT_EQ(loaded.size(), statistics.size());
  EXPECT_TRUE(at::equal(loaded.at(kModule).gradient, statistics.at(kModule).gradient));
  EXPECT_TRUE(at::equal(loaded.at(kModule).input_moment, statistics.at(kModule).input_moment));
  EXPECT_TRUE(at::equal(loaded.at(kModule).condensed.at("own"), at::ones({2, 3})));
  save_statistics(folder / "b", loaded, made_from);
  EXPECT_EQ(read_file(folder / "a"), read_file(folder / "b"));
}

TEST(StatisticsFile, IsRefusedWhereItIsOfAnotherStart) {
  const TemporaryFolder folder;
  StatisticsByModule statistics;
  statistics[kModule].gradient = at::ones({2, 2});
  save_statistics(folder / "a", statistics, {{"batches", "4"}});
  EXPECT_THAT(
      [&] {
        load_statistics(folder / "a", {{"batches", "8"}});
      },
      ThrowsMessage<FormatError>(HasSubstr("'batches' was '4' and is now '8'")));
  EXPECT_THAT(
      [&] {
        load_statistics(folder / "a", {{"seed", "1"}});
      },
      ThrowsMessage<FormatError>(HasSubstr("'seed' was not said and is now '1'")));
  statistics[kModule].gradient[0][0] = std::numeric_limits<float>::quiet_NaN();
  save_statistics(folder / "nan", statistics);
  EXPECT_THAT(
      [&] { load_statistics(folder / "nan"); },
      ThrowsMessage<FormatError>(HasSubstr(kModule + ":gradient must hold finite numbers")));
  save_safetensors(folder / "other", {{"a", at::ones({2})}});
  EXPECT_THAT(
      [&] { load_statistics(folder / "other"); },
      ThrowsMessage<FormatError>(HasSubstr("holds no statistics of weights")));
  save_safetensors(folder / "odd", {{"a:b", at::ones({2})}}, {{"format", "rora weight statistics"}});
  EXPECT_THAT(
      [&] { load_statistics(folder / "odd"); }, ThrowsMessage<FormatError>(HasSubstr("tensor a:b is no statistic")));
  EXPECT_THROW(load_statistics(folder / "none"), FileError);
  std::string bytes = read_file(folder / "a");
  bytes.back() ^= 1;
  write_file(folder / "flipped", bytes);
  EXPECT_THAT([&] { load_statistics(folder / "flipped"); }, ThrowsMessage<FormatError>(HasSubstr("is damaged")));
}

TEST(StoredStart, RefusesWhatWasNotStored) {
  auto model = tiny_llama();
  const auto options = beginning_with(stored_start(pissa()));
  EXPECT_THAT(
      [&] { attach_adapters(*model, options); }, ThrowsMessage<c10::ValueError>(HasSubstr("its start was not stored")));
  StatisticsByModule statistics;
  for (const std::string& module : target_modules(*model, options)) {
    statistics[module].condensed = {
        {"lora_A", at::ones({2, 5})}, {"lora_B", at::ones({16, 2})}, {"alpha", at::ones({}, at::kDouble)}};
  }
  EXPECT_THAT(
      [&] { attach_adapters(*model, options, kDefaultAdapter, statistics); },
      ThrowsMessage<c10::ValueError>(HasSubstr("has sizes of another weight")));
}

/// What PEFT 0.21.2 makes of the golden model: tests/fixtures/starts/make_starts.py.
class BesidePeft : public ::testing::Test {
 protected:
  BesidePeft() : answers_(test_data("starts/answers.safetensors")), model_(load_model(test_data("golden/model"))) {}

  StatisticsByModule statistics(const AdapterOptions& options) {
    return capture_statistics(model_, options, CaptureOptions().batches(1), [&](int64_t) {
      return CaptureBatch{{answers_.tensor("input_ids"), {}, {}}, answers_.tensor("labels")};
    });
  }

  void expect_alike(const std::string& start, std::shared_ptr<const Initializer> initializer, double tolerance) {
    const auto options = beginning_with(std::move(initializer));
    const auto modules = attach_adapters(*model_, options, kDefaultAdapter, statistics(options));
    ASSERT_EQ(modules.size(), 14);
    for (const std::string& module : modules) {
      const at::Tensor expected = answers_.tensor(start + ":" + module + ":change");
      EXPECT_LT(relative_error(change_of(*adapter_of(model_, module)), expected), tolerance) << module;
    }
  }

  SafetensorsFile answers_;
  CausalLM model_;
};

TEST_F(BesidePeft, PiSSABeginsAlike) {
  expect_alike("pissa", pissa(), 1e-4);
}

TEST_F(BesidePeft, OLoRABeginsAlike) {
  expect_alike("olora", olora(), 1e-4);
}

TEST_F(BesidePeft, LoRAGABeginsAlikeInPeftsForm) {
  const auto options = beginning_with(lora_ga(LoRAGAOptions().form(LoRAGAForm::kPeft)));
  for (const std::string& module : attach_adapters(*model_, options, kDefaultAdapter, statistics(options))) {
    const auto adapter = adapter_of(model_, module);
    const at::Tensor a = adapter->lora_A.detach(), b = adapter->lora_B.detach();
    // Both decompositions are randomised.
    EXPECT_LT(relative_error(a.t().mm(a), answers_.tensor("lora_ga:" + module + ":a")), 5e-3) << module;
    EXPECT_LT(relative_error(b.mm(b.t()), answers_.tensor("lora_ga:" + module + ":b")), 5e-3) << module;
  }
}

TEST_F(BesidePeft, EVAHasTheSameRanksDirectionsAndScales) {
  auto options = beginning_with(eva());
  options.low_rank(LowRankOptions(options.low_rank()).scaling(Scaling::kStandard));
  for (const std::string& module : attach_adapters(*model_, options, kDefaultAdapter, statistics(options))) {
    const auto adapter = adapter_of(model_, module);
    const at::Tensor expected = answers_.tensor("eva:" + module + ":a");
    ASSERT_EQ(adapter->lora_A.sizes(), expected.sizes()) << module;
    EXPECT_LT(relative_error(adapter->lora_A.detach(), expected), 5e-3) << module; // PEFT adds up in fp32
    EXPECT_NEAR(adapter->scale(), answers_.tensor("eva:" + module + ":scale").item<double>(), 1e-12) << module;
  }
}

} // namespace
} // namespace rora
