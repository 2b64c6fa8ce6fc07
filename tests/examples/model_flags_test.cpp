// Flags whose values no model or machine can serve, and models that the flags are about.

#include "examples/support.h"

#include <gtest/gtest.h>

#include <limits>

namespace rora::testing {
namespace {

using Arguments = std::vector<std::string>;

const std::string kMost = std::to_string(std::numeric_limits<int64_t>::max());

Arguments operator+(Arguments a, const Arguments& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

Arguments evaluate(const Workplace& place) {
  return {"evaluate", "--model", place.path("model"), "--task", "perplexity", "--data", place.path("train.jsonl")};
}

/// Ends at once: with one line that names the flag, or well.
void expect_bounded(const Arguments& arguments, const std::string& flag, bool refused) {
  for (const std::string& value : {kMost, std::string("9223372036854775806")}) {
    const Outcome outcome = run_rora(arguments + Arguments{"--" + flag, value});
    if (refused) {
      expect_error(outcome, 2, "--" + flag);
    } else {
      EXPECT_EQ(outcome.code, 0) << flag << ": " << outcome.err;
    }
  }
}

TEST(FlagBounds, OfTrainingHoldBeforeAnythingOverflows) {
  const Workplace place;
  const Arguments finetune{"finetune", "--model",         place.path("model"), "--data", place.path("train.jsonl"),
                           "--output", place.path("run"), "--dry-run"};
  for (const char* flag :
       {"rank", "warmup-steps", "epochs", "max-steps", "batch-size", "grad-accum", "max-length", "save-every",
        "early-stopping-patience", "eval-every", "threads"}) {
    expect_bounded(finetune, flag, true);
  }
  expect_bounded(finetune, "seed", false);
  // The most that they take are no harm.
  const std::string most = "1000000000";
  for (const char* flag :
       {"warmup-steps", "epochs", "max-steps", "batch-size", "grad-accum", "max-length", "save-every"}) {
    const Outcome outcome = run_rora(finetune + Arguments{std::string("--") + flag, most});
    EXPECT_EQ(outcome.code, 0) << flag << ": " << outcome.err;
  }
  expect_error(run_rora(finetune + Arguments{"--packing", "--epochs", "1001"}), 2, "--epochs");
  expect_error(run_rora(finetune + Arguments{"--rank", "65536"}), 1, "rank 65536 is over its 16 + 16 features");
  EXPECT_FALSE(place.exists("run"));
}

TEST(FlagBounds, OfEvaluationGenerationAndBenchHold) {
  const Workplace place;
  for (const char* flag : {"batch-size", "max-new-tokens", "beams", "limit", "threads"}) {
    expect_bounded(evaluate(place), flag, true);
  }
  const Arguments bench{"bench", "--model", place.path("model")};
  for (const char* flag : {"batch", "seq", "steps", "rank"}) {
    expect_bounded(bench, flag, true);
  }
  expect_error(run_rora(bench + Arguments{"--batch", "1000000000", "--seq", "1000000000"}), 2, "--batch 1000000000");
  save_text_model(place.path("text"));
  const Arguments generate{"generate", "--model", place.path("text"), "--prompt", "the", "--max-new-tokens", "2"};
  expect_bounded(generate, "top-k", true);
  expect_bounded(generate, "seed", false);
  expect_error(run_rora(generate + Arguments{"--beams", "100000"}), 2, "--beams");
  expect_error(run_rora(generate + Arguments{"--beams", "425"}), 2, "--beams 425 is over the model's vocab_size 424");
  EXPECT_EQ(run_rora(generate + Arguments{"--beams", "424"}).code, 0);
}

TEST(FlagBounds, OfAModelsConfigurationAreThatItFitsTheMachine) {
  const Workplace place;
  Json config = place.json("model/config.json");
  config["vocab_size"] = 2147483647;
  config["hidden_size"] = 1 << 20;
  place.write("config.json", config.dump());
  expect_error(
      run_rora(
          {"pretrain", "--model-config", place.path("config.json"), "--data", place.path("train.jsonl"), "--output",
           place.path("run")}),
      1, "config.json: asks for a model of ");
  EXPECT_FALSE(place.exists("run"));
}

TEST(ModelFolders, AreNoFiles) {
  const Workplace place;
  const std::string file = place.path("model/config.json"), data = place.path("train.jsonl");
  const std::vector<Arguments> commands{
      {"inspect"},
      {"finetune", "--data", data, "--output", place.path("run")},
      {"evaluate", "--data", data, "--task", "perplexity"},
      {"generate", "--prompt", "a"},
      {"tokenize", "--text", "a"}};
  for (const Arguments& command : commands) {
    expect_error(run_rora(command + Arguments{"--model", file}), 1, "config.json: is not a folder");
  }
  expect_error(run_rora(evaluate(place) + Arguments{"--adapter", file}), 1, "config.json: is not a folder");
  EXPECT_FALSE(place.exists("run"));
}

TEST(NumbersThatOverflow, EndEveryCommandWithOneLine) {
  const Workplace place;
  save_text_model(place.path("text"));
  std::string weights = place.read("text/model.safetensors");
  for (size_t i = weights.size() - 16 * sizeof(float); i < weights.size(); i += sizeof(float)) {
    weights.replace(i, sizeof(float), "\xFF\xFF\x7F\x7F"); // the largest number, as the last norm's weights
  }
  place.write("text/model.safetensors", weights);
  place.write(
      "asked.jsonl", "{\"prompt\": \"Answer format: true/false\", \"completion\": \"the correct answer is true\"}\n");
  const Arguments evaluate{"evaluate", "--model", place.path("text"), "--data", place.path("asked.jsonl"), "--task"};
  expect_error(run_rora(evaluate + Arguments{"perplexity"}), 1, "the loss is not finite");
  expect_error(run_rora(evaluate + Arguments{"choice"}), 1, "not finite");
  expect_error(run_rora(evaluate + Arguments{"generation"}), 1, "logits are NaN or infinite");
  expect_error(
      run_rora({"chat", "--template", "llama2", "--model", place.path("text")}, "hello\n"), 1,
      "logits are NaN or infinite");
  expect_error(
      run_rora({"generate", "--model", place.path("text"), "--prompt", "hello"}), 1, "logits are NaN or infinite");
}

TEST(InferWidths, TakesTheTensorsAtTheirWord) {
  const Workplace place;
  const Outcome right = run_rora(evaluate(place));
  Json config = place.json("model/config.json");
  config["num_attention_heads"] = 2;
  place.write("model/config.json", config.dump());
  expect_error(
      run_rora(evaluate(place)), 1,
      "config.json: num_attention_heads is 2, but model.layers.0.self_attn.q_proj.weight [16, 16] has 4 heads");
  EXPECT_EQ(run_rora(evaluate(place) + Arguments{"--infer-widths"}).out, right.out);
}

} // namespace
} // namespace rora::testing
