// What each flag of rora finetune changes in a run, seen in its metrics.

#include "examples/support.h"

#include <rora/data/dataset.h>

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

namespace rora::testing {
namespace {

constexpr int kSteps = 4;
constexpr double kLearningRate = 0.02; // of `Workplace::finetune`

/// The metrics of a run of four steps in the file's order, with further flags.
std::vector<Json> metrics(const Workplace& place, const std::string& run, std::vector<std::string> more) {
  more.insert(more.end(), {"--shuffle", "off"});
  const Outcome outcome = run_rora(place.finetune(run, kSteps, more));
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  auto lines = place.lines(run + "/metrics.jsonl");
  EXPECT_EQ(lines.size(), kSteps);
  lines.resize(kSteps, {{"loss", 0.0}, {"lr", 0.0}, {"grad_norm", 0.0}, {"tokens", 0}, {"labelled_tokens", 0}});
  return lines;
}

std::vector<double> values(const std::vector<Json>& lines, const std::string& key) {
  std::vector<double> all;
  for (const Json& line : lines) {
    all.push_back(line[key].get<double>());
  }
  return all;
}

void expect_near(const std::vector<double>& found, const std::vector<double>& expected, double relative) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    EXPECT_NEAR(found[i], expected[i], relative * std::abs(expected[i]) + 1e-12) << "step " << i + 1;
  }
}

TEST(FinetuneFlags, GradAccumMakesOneStepOfSeveralBatches) {
  const Workplace place;
  const auto whole = metrics(place, "whole", {});
  const auto parts = metrics(place, "parts", {"--batch-size", "2", "--grad-accum", "2"});
  for (const char* key : {"tokens", "labelled_tokens"}) {
    EXPECT_EQ(values(parts, key), values(whole, key));
  }
  for (const char* key : {"loss", "grad_norm"}) {
    expect_near(values(parts, key), values(whole, key), 1e-3);
  }
}

TEST(FinetuneFlags, WarmupAndScheduleDecideTheLearningRate) {
  const Workplace place;
  const auto expect_rates = [&](const std::string& run, const std::vector<std::string>& more, auto share) {
    std::vector<double> expected;
    for (int step = 0; step < kSteps; ++step) {
      expected.push_back(kLearningRate * share(step));
    }
    expect_near(values(metrics(place, run, more), "lr"), expected, 1e-12);
  };
  expect_rates("linear", {}, [](double step) { return 1.0 - step / kSteps; });
  expect_rates("constant", {"--schedule", "constant"}, [](double) { return 1.0; });
  expect_rates("cosine", {"--schedule", "cosine"}, [](double step) {
    return 0.5 * (1.0 + std::cos(std::numbers::pi * step / kSteps));
  });
  expect_rates("warm", {"--warmup-steps", "2"}, [](double step) {
    return step < 2 ? step / 2 : 1.0 - (step - 2) / (kSteps - 2);
  });
}

TEST(FinetuneFlags, ClipAndWeightDecayChangeTheStepAndNotItsGradient) {
  const Workplace place;
  const auto plain = metrics(place, "plain", {});
  // AdamW's step depends on the gradient's size where that comes near its epsilon.
  for (const std::vector<std::string>& more : {std::vector<std::string>{"--clip", "1e-8"}, {"--weight-decay", "5"}}) {
    const auto changed = metrics(place, "changed" + more[0], more);
    EXPECT_EQ(changed[0]["grad_norm"], plain[0]["grad_norm"]);
    EXPECT_NE(changed[2]["loss"], plain[2]["loss"]) << more[0];
  }
  EXPECT_EQ(values(metrics(place, "off", {"--clip", "0", "--weight-decay", "0"}), "tokens"), values(plain, "tokens"));
}

TEST(FinetuneFlags, LrRatioBChangesTheStepAndNotItsGradientAndAtOneNothing) {
  const Workplace place;
  const auto plain = metrics(place, "plain", {});
  const auto faster = metrics(place, "faster", {"--lr-ratio-b", "4"});
  EXPECT_EQ(faster[0]["grad_norm"], plain[0]["grad_norm"]);
  EXPECT_NE(faster[2]["loss"], plain[2]["loss"]);
  metrics(place, "alike", {"--lr-ratio-b", "1"});
  EXPECT_EQ(place.read("alike/adapter_model.safetensors"), place.read("plain/adapter_model.safetensors"));
  EXPECT_EQ(run_rora(place.finetune("none", kSteps, {"--lr-ratio-b", "0"})).code, 2);
}

TEST(FinetuneFlags, EachOptimizerTakesItsOwnStepsOfTheSameFirstGradient) {
  const Workplace place;
  const auto plain = metrics(place, "adamw", {"--clip", "0"});
  for (const std::string name : {"lora-rite", "lora-fa", "lora-pro", "lora-pro-full", "scaled-gd"}) {
    const auto own = metrics(place, name, {"--optimizer", name});
    EXPECT_NE(own[2]["loss"], plain[2]["loss"]) << name;
    const Json config = place.json(name + "/run.json")["config"];
    EXPECT_EQ(config["optimizer"], name);
    EXPECT_EQ(config["clip"], name == "lora-fa" || name == "scaled-gd" ? 1.0 : 0.0) << name;
    if (name != "lora-fa") {
      EXPECT_EQ(own[0]["grad_norm"], plain[0]["grad_norm"]) << name;
    }
  }
  EXPECT_EQ(place.json("adamw/run.json")["config"]["optimizer"], "adamw");
  metrics(place, "clipped", {"--optimizer", "lora-rite", "--clip", "0.5"});
  EXPECT_EQ(place.json("clipped/run.json")["config"]["clip"], 0.5);
}

TEST(FinetuneFlags, AnOptimizersRunResumesAndRefusesAnother) {
  const Workplace place;
  const std::vector<std::string> more{"--optimizer", "lora-rite", "--save-every", "2"};
  ASSERT_EQ(run_rora(place.finetune("run", kSteps, more)).code, 0);
  const std::string adapter = place.read("run/adapter_model.safetensors");
  Json run = place.json("run/run.json");
  run["finished"] = false;
  place.write("run/run.json", run.dump());
  expect_error(
      run_rora(place.finetune("run", kSteps, {"--optimizer", "scaled-gd", "--clip", "0", "--resume"})), 1, "run.");
  expect_error(
      run_rora(place.finetune("run", kSteps, {"--optimizer", "lora-rite", "--clip", "2", "--resume"})), 1, "run.clip");
  const Outcome resumed = run_rora(place.finetune("run", kSteps, {"--optimizer", "lora-rite", "--resume"}));
  EXPECT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_EQ(place.read("run/adapter_model.safetensors"), adapter);
}

TEST(FinetuneFlags, OptimizerHelpListsThemWhateverIsLacking) {
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"finetune", "--optimizer", "help"},
        {"finetune", "--model", "nowhere", "--optimizer=help", "--rank", "4"}}) {
    const Outcome outcome = run_rora(words);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(outcome.err, "");
    for (const char* text :
         {"adamw ", "lora-rite ", "lora-fa ", "lora-pro ", "lora-pro-full ", "scaled-gd ", "2410.20625"}) {
      EXPECT_NE(outcome.out.find(text), std::string::npos) << text;
    }
  }
}

TEST(FinetuneFlags, ThePlanCountsTheOptimizersState) {
  const Workplace place;
  const auto state = [&](const std::string& optimizer) {
    const std::string out =
        run_rora(place.finetune("none", 1, {"--dry-run", "--rank", "64", "--optimizer", optimizer})).out;
    const std::string name = "optimiser state";
    const size_t at = out.find(name);
    EXPECT_NE(at, std::string::npos) << out;
    return at == std::string::npos ? 0.0 : std::stod(out.substr(at + name.size()));
  };
  EXPECT_LT(state("lora-fa"), state("adamw")); // of B alone
  EXPECT_LT(state("lora-pro-full"), state("lora-fa")); // of weights that are smaller than these factors
}

TEST(FinetuneFlags, PackingFillsRows) {
  const Workplace place;
  // Examples of 5, 6, 7, 8, 5, … tokens, all but the first two of each labelled.
  const auto packed = metrics(place, "packed", {"--packing", "--max-length", "16", "--batch-size", "1"});
  EXPECT_EQ(values(packed, "tokens"), (std::vector<double>{11, 15, 11, 15}));
  EXPECT_EQ(values(packed, "labelled_tokens"), (std::vector<double>{7, 11, 7, 11}));
  const auto apart = metrics(place, "apart", {"--batch-size", "2"});
  expect_near({packed[0]["loss"].get<double>()}, {apart[0]["loss"].get<double>()}, 1e-5);
}

TEST(FinetuneFlags, Bfloat16TakesNearlyTheSameSteps) {
  const Workplace place;
  const auto wide = values(metrics(place, "wide", {}), "loss");
  const auto narrow = values(metrics(place, "narrow", {"--dtype", "bfloat16"}), "loss");
  EXPECT_NE(narrow, wide);
  expect_near(narrow, wide, 0.05);
}

TEST(FinetuneFlags, ActivationCheckpointingChangesNothing) {
  const Workplace place;
  const std::vector<std::string> dropout{"--dropout", "0.2"};
  metrics(place, "kept", dropout);
  metrics(place, "recomputed", {"--dropout", "0.2", "--activation-checkpointing"});
  EXPECT_EQ(place.read("recomputed/adapter_model.safetensors"), place.read("kept/adapter_model.safetensors"));
  EXPECT_EQ(place.json("recomputed/run.json")["config"]["activation-checkpointing"], true);
  for (const std::string each : {"selective", "full"}) {
    metrics(place, each, {"--dropout", "0.2", "--checkpointing", each});
    EXPECT_EQ(place.read(each + "/adapter_model.safetensors"), place.read("kept/adapter_model.safetensors")) << each;
    EXPECT_EQ(place.json(each + "/run.json")["config"]["checkpointing"], each);
  }
  const Outcome both = run_rora(place.finetune("both", 1, {"--checkpointing", "none", "--activation-checkpointing"}));
  EXPECT_EQ(both.code, 2);
  EXPECT_NE(both.err.find("--activation-checkpointing"), std::string::npos) << both.err;
  const Outcome idle = run_rora(place.finetune("idle", 1, {"--method", "prefix", "--checkpointing", "selective"}));
  EXPECT_EQ(idle.code, 2);
  EXPECT_NE(idle.err.find("--checkpointing selective"), std::string::npos) << idle.err;
}

TEST(FinetuneFlags, PortableWritesTheSameScaleAsAlphaOverRank) {
  const Workplace place;
  metrics(place, "own", {"--rank", "4", "--alpha", "6"});
  metrics(place, "portable", {"--rank", "4", "--alpha", "6", "--portable"});
  const Json config = place.json("portable/adapter_config.json");
  EXPECT_EQ(config.value("use_rslora", Json(false)), false);
  EXPECT_EQ(config["lora_alpha"], 12); // 6/√4 = 12/4
  EXPECT_EQ(place.read("portable/adapter_model.safetensors"), place.read("own/adapter_model.safetensors"));
}

TEST(FinetuneFlags, SaveEveryKeepsTheLastCheckpoint) {
  const Workplace place;
  const Outcome outcome = run_rora(place.finetune("run", 3, {"--save-every", "2"}));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(place.exists("run/checkpoint-3/adapter_model.safetensors"));
  EXPECT_FALSE(place.exists("run/checkpoint-2"));
}

TEST(FinetuneFlags, EarlyStoppingPatienceEndsARunThatGetsWorse) {
  const Workplace place;
  const Outcome outcome = run_rora(place.finetune(
      "run", 200,
      {"--lr", "2", "--schedule", "constant", "--eval-data", place.path("train.jsonl"), "--eval-every", "1",
       "--early-stopping-patience", "3"}));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const Json results = place.json("run/run.json")["results"];
  EXPECT_EQ(results["stopped_early"], true);
  EXPECT_EQ(results["steps"].get<int>(), results["best_step"].get<int>() + 3);
}

/// A model with a tokenizer, and data that must be tokenised.
class FinetuneTextTest : public ::testing::Test {
 protected:
  FinetuneTextTest() {
    save_text_model(place.path("text_model"));
  }

  /// The metrics of one step on all records of `data`, and what `load_dataset` makes of them.
  Json step(const std::string& run, const std::string& data, const std::vector<std::string>& more) const {
    std::vector<std::string> arguments{"finetune",       "--model",  place.path("text_model"), "--data",
                                       place.path(data), "--output", place.path(run)};
    arguments.insert(arguments.end(), {"--max-steps", "1", "--batch-size", "8", "--rank", "2", "--threads", "1"});
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Outcome outcome = run_rora(arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    const auto lines = place.lines(run + "/metrics.jsonl");
    return lines.empty() ? Json{{"tokens", 0}, {"labelled_tokens", 0}, {"loss", 0.0}} : lines[0];
  }

  /// Tokens and labelled tokens.
  std::pair<int64_t, int64_t> expected(const std::string& data, const DatasetOptions& options) const {
    const auto tokenizer = load_tokenizer(place.path("text_model"));
    std::pair<int64_t, int64_t> counts;
    for (const Example& example : load_dataset({place.path(data)}, tokenizer.get(), options).examples) {
      counts.first += static_cast<int64_t>(example.input_ids.size());
      counts.second += static_cast<int64_t>(example.labels.size()) - 1 -
          std::count(example.labels.begin() + 1, example.labels.end(), kIgnoreIndex);
    }
    return counts;
  }

  static std::pair<int64_t, int64_t> counts(const Json& line) {
    return {line["tokens"].get<int64_t>(), line["labelled_tokens"].get<int64_t>()};
  }

  Workplace place;
};

TEST_F(FinetuneTextTest, TrainsOnTheAnswersOfAlpacaRecordsOrOnAll) {
  place.write(
      "alpaca.json",
      R"([{"instruction": "Add the numbers.", "input": "2 and 3", "output": "The answer is 5."},
          {"instruction": "Say hello.", "input": "", "output": "Hello."}])");
  DatasetOptions options;
  const auto answers = expected("alpaca.json", options);
  options.train_on_inputs(true);
  const auto all = expected("alpaca.json", options);
  ASSERT_LT(answers.second, all.second);
  const Json line = step("answers", "alpaca.json", {});
  EXPECT_EQ(counts(line), answers);
  EXPECT_GT(line["loss"].get<double>(), 0.0);
  EXPECT_EQ(counts(step("all", "alpaca.json", {"--train-on-inputs"})), all);
}

TEST_F(FinetuneTextTest, WritesChatsByTheTemplateThatIsAskedFor) {
  place.write(
      "chat.json",
      R"([{"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day."}]}])");
  DatasetOptions options;
  const auto llama2 = expected("chat.json", options);
  options.chat_template(ChatTemplate::named("chatml"));
  const auto chatml = expected("chat.json", options);
  ASSERT_NE(llama2, chatml);
  EXPECT_EQ(counts(step("auto", "chat.json", {})), llama2);
  EXPECT_EQ(counts(step("chatml", "chat.json", {"--chat-template", "chatml"})), chatml);
}

} // namespace
} // namespace rora::testing
