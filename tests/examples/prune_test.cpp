// rora prune, run as its users run it.

#include "examples/support.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace rora::testing {
namespace {

using ::testing::HasSubstr;

/// prune of the workplace's model, two layers of 4 query heads, 2 of keys and values and 24 channels.
Outcome prune(const Workplace& place, const std::string& output, const std::vector<std::string>& more) {
  std::vector<std::string> arguments{"prune",     "--model", place.path("model"), "--output", place.path(output),
                                     "--threads", "1"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return run_rora(arguments);
}

double perplexity(const Workplace& place, const std::string& model) {
  const Outcome outcome =
      run_rora({"evaluate", "--model", place.path(model), "--data", place.path("train.jsonl"), "--task", "perplexity"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  return outcome.code == 0 ? Json::parse(outcome.out)["perplexity"].get<double>() : 0.0;
}

TEST(PruneCommand, WritesAnOrdinaryFolderOfLikeLayers) {
  const Workplace place;
  Json config = place.json("model/config.json");
  config["pad_token_id"] = 7; // of which rora knows nothing
  config.erase("head_dim");
  place.write("model/config.json", config.dump());
  place.write("model/generation_config.json", "{ \"eos_token_id\": 2 }\n");
  place.write("model/tokenizer_config.json", "{ \"kept\": \"byte for byte\" }\n");
  const Outcome outcome = prune(place, "pruned", {"--share", "0.5"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "");
  // Each layer has 768 weights of attention, 1152 of the MLP and 32 of norms; 384 of the former and 12 channels of 48
  // are next to its half.
  EXPECT_THAT(outcome.out, HasSubstr("query heads 4 -> 2, heads of keys and values 2 -> 1, channels 24 -> 12\n"));
  EXPECT_THAT(outcome.out, HasSubstr("removed 49.18% of 3904 parameters of the decoder layers, 38.83% of 4944 of"));
  const Json pruned = place.json("pruned/config.json");
  EXPECT_EQ(pruned["num_attention_heads"], 2);
  EXPECT_EQ(pruned["num_key_value_heads"], 1);
  EXPECT_EQ(pruned["intermediate_size"], 12);
  EXPECT_EQ(pruned["head_dim"], 4);
  EXPECT_EQ(pruned["pad_token_id"], 7);
  for (const char* file : {"generation_config.json", "tokenizer_config.json"}) {
    EXPECT_EQ(place.read(std::string("pruned/") + file), place.read(std::string("model/") + file)) << file;
  }
  EXPECT_FALSE(place.exists("pruned/.partial"));
  EXPECT_GT(perplexity(place, "pruned"), 1.0);
  EXPECT_NE(perplexity(place, "pruned"), perplexity(place, "model"));
  expect_error(prune(place, "pruned", {"--share", "0.5"}), 1, "already holds a model");
}

TEST(PruneCommand, OfNothingWritesTheSameTensors) {
  const Workplace place;
  for (const std::string output : {"alike", "by_layer"}) {
    const bool by_layer = output == "by_layer";
    const Outcome outcome = prune(
        place, output,
        by_layer ? std::vector<std::string>{"--share", "0", "--by-layer"} : std::vector<std::string>{"--share", "0"});
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_THAT(outcome.out, HasSubstr("removed 0.00% of 3904"));
    EXPECT_EQ(place.read(output + "/model.safetensors"), place.read("model/model.safetensors"));
  }
}

TEST(PruneCommand, ByGradientDoesNotHangOnHowTheDataLieInBatches) {
  const Workplace place;
  for (const std::string batch : {"1", "5", "12"}) {
    const Outcome outcome = prune(
        place, "by" + batch,
        {"--share", "0.4", "--importance", "gradient", "--data", place.path("train.jsonl"), "--batch-size", batch});
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_THAT(outcome.out, HasSubstr("gradients of 54 labelled tokens in "));
    EXPECT_THAT(outcome.out, HasSubstr("which is all of --data"));
    EXPECT_EQ(place.read("by" + batch + "/model.safetensors"), place.read("by1/model.safetensors"));
  }
  ASSERT_EQ(prune(place, "by_magnitude", {"--share", "0.4"}).code, 0);
  EXPECT_NE(place.read("by_magnitude/model.safetensors"), place.read("by1/model.safetensors"));
  const std::vector<std::string> first{
      "--share", "0.4", "--importance", "gradient", "--data", place.path("train.jsonl"), "--batches", "1"};
  const Outcome outcome = prune(place, "first", first);
  EXPECT_THAT(outcome.out, HasSubstr(" in 1 batches\n"));
}

TEST(PruneCommand, ByLayerWritesAFolderThatRoraLoadsAndTrains) {
  const Workplace place;
  const std::vector<std::string> flags{
      "--share", "0.55", "--by-layer", "--importance", "gradient", "--data", place.path("train.jsonl")};
  const Outcome outcome = prune(place, "pruned", flags);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("its layers have unlike widths, which rora reads off the tensors"));
  ASSERT_EQ(prune(place, "again", flags).code, 0);
  EXPECT_EQ(place.read("again/model.safetensors"), place.read("pruned/model.safetensors"));
  EXPECT_GT(perplexity(place, "pruned"), 1.0);
  std::vector<std::string> finetune = place.finetune("run", 2);
  finetune[2] = place.path("pruned");
  const Outcome trained = run_rora(finetune);
  EXPECT_EQ(trained.code, 0) << trained.err;
  expect_error(
      run_rora({"prune", "--model", place.path("pruned"), "--share", "0.1", "--output", place.path("more")}), 1,
      "unlike widths");
  EXPECT_FALSE(place.exists("more"));
}

TEST(PruneCommand, ReadsTextsWithTheModelsTokenizer) {
  const Workplace place;
  save_text_model(place.path("text"));
  place.write(
      "texts.jsonl", "{\"text\": \"the cat sat on the mat\"}\n{\"prompt\": \"the\", \"completion\": \" cat\"}\n");
  const Outcome outcome = run_rora(
      {"prune", "--model", place.path("text"), "--share", "0.3", "--output", place.path("pruned"), "--importance",
       "gradient", "--data", place.path("texts.jsonl"), "--max-length", "4"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(place.exists("pruned/tokenizer.model"));
}

TEST(PruneCommand, RefusesWhatCannotBeInOneLineAndLeavesNothing) {
  const Workplace place;
  for (const char* share : {"1", "-0.1", "nan", "x"}) {
    expect_error(prune(place, "out", {"--share", share}), 2, "--share");
  }
  expect_error(prune(place, "out", {}), 2, "--share");
  expect_error(prune(place, "out", {"--share", "0.99"}), 1, "is the most");
  expect_error(prune(place, "out", {"--share", "0.5", "--importance", "gradient"}), 2, "needs --data");
  expect_error(
      prune(place, "out", {"--share", "0.5", "--data", place.path("train.jsonl")}), 2,
      "--data goes with --importance gradient");
  expect_error(prune(place, "out", {"--share", "0.5", "--batches", "3"}), 2, "--batches goes with");
  expect_error(
      prune(place, "out", {"--share", "0.5", "--importance", "gradient", "--data", place.path("none.jsonl")}), 1,
      "none.jsonl");
  expect_error(prune(place, "model", {"--share", "0.5"}), 1, "already holds a model");
  expect_error(run_rora({"prune", "--model", place.path("model"), "--share", "0", "--output", ""}), 2, "--output");
  EXPECT_FALSE(place.exists("out"));
}

} // namespace
} // namespace rora::testing
