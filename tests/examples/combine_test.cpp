// rora combine, average and convert, run as their users run them.

#include "examples/support.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace rora::testing {
namespace {

using ::testing::HasSubstr;

/// Two trained adapters, "rora" of rank 4 and "lora" of rank 2, and "dora".
class Sums : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    place_ = new Workplace;
    train("rora", {"--rank", "4", "--alpha", "6"});
    train("lora", {"--rank", "2", "--alpha", "5", "--scaling", "standard", "--seed", "3"});
    train("dora", {"--rank", "2", "--alpha", "5", "--dora"});
  }

  static void TearDownTestSuite() {
    delete place_;
  }

  static void train(const std::string& name, const std::vector<std::string>& flags) {
    const Outcome outcome = run_rora(place_->finetune(name, 4, flags));
    ASSERT_EQ(outcome.code, 0) << outcome.err;
  }

  /// A run whose words that begin with @ are paths in the workplace.
  static Outcome run(std::vector<std::string> words) {
    for (std::string& word : words) {
      word = word.starts_with("@") ? place_->path(word.substr(1)) : word;
    }
    return run_rora(words);
  }

  static double perplexity(const std::string& adapter) {
    const Outcome outcome = run(
        {"evaluate", "--model", "@model", "--adapter", "@" + adapter, "--data", "@train.jsonl", "--task", "perplexity",
         "--threads", "1"});
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return outcome.code == 0 ? Json::parse(outcome.out)["perplexity"].get<double>() : 0.0;
  }

  static const Workplace& place() {
    return *place_;
  }

 private:
  inline static Workplace* place_ = nullptr;
};

TEST_F(Sums, CombineWritesAFolderThatOneCanSubtractFromAgain) {
  Outcome outcome = run(
      {"combine", "--adapters", "@rora", "@lora", "--weights", "1,0.5", "--output", "@sum", "--scaling", "standard"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "");
  EXPECT_THAT(outcome.out, HasSubstr("14 modules: 14 with their factors side by side\n"));
  EXPECT_THAT(outcome.out, HasSubstr("rounding to float32, once a value, changes model.layers."));
  EXPECT_THAT(outcome.out, HasSubstr("rank 6, scales alpha/r\n"));
  EXPECT_EQ(place().json("sum/adapter_config.json")["use_rslora"], false);
  EXPECT_FALSE(place().exists("sum/.partial"));
  outcome = run({"combine", "--adapters", "@sum", "@lora", "--weights", "1,-0.5", "--output", "@back", "--rank", "4"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("rank 4 at most changes "));
  EXPECT_NEAR(perplexity("back"), perplexity("rora"), 1e-5 * perplexity("rora"));
  EXPECT_GT(std::abs(perplexity("sum") - perplexity("rora")), 1e-3 * perplexity("rora"));
  expect_error(
      run({"combine", "--adapters", "@rora", "--weights", "1", "--output", "@sum"}), 1, "already holds an adapter");
}

TEST_F(Sums, CombineSaysWhereTheBasesDifferAndGoesOn) {
  const Outcome copied = run({"convert", "--adapter", "@lora", "--output", "@elsewhere"});
  ASSERT_EQ(copied.code, 0) << copied.err;
  Json config = place().json("elsewhere/adapter_config.json");
  config["base_model_name_or_path"] = "another/model";
  place().write("elsewhere/adapter_config.json", config.dump());
  const Outcome outcome =
      run({"combine", "--adapters", "@rora", "@elsewhere", "--weights", "1,1", "--output", "@of_two_bases"});
  EXPECT_EQ(outcome.code, 0);
  EXPECT_THAT(outcome.err, HasSubstr("elsewhere names another/model"));
  EXPECT_EQ(
      place().json("of_two_bases/adapter_config.json")["base_model_name_or_path"],
      place().json("rora/adapter_config.json")["base_model_name_or_path"]);
}

TEST_F(Sums, ConvertKeepsWhatTheAdapterComputes) {
  for (const std::string adapter : {"rora", "dora"}) {
    int64_t count = 0;
    for (const std::vector<std::string>& flags : std::vector<std::vector<std::string>>{
             {},
             {"--scaling", "standard"},
             {"--alpha", "7"},
             {"--uniform"},
             {"--rank", "9", "--scaling", "standard"}}) {
      const std::string output = adapter + std::to_string(count++);
      std::vector<std::string> words{"convert", "--adapter", "@" + adapter, "--output", "@" + output};
      words.insert(words.end(), flags.begin(), flags.end());
      const Outcome outcome = run(words);
      ASSERT_EQ(outcome.code, 0) << outcome.err;
      EXPECT_EQ(outcome.err, "");
      EXPECT_EQ(
          outcome.out.find("no value was rounded") == std::string::npos,
          flags == std::vector<std::string>({"--alpha", "7"}));
      EXPECT_NEAR(perplexity(output), perplexity(adapter), 1e-5 * perplexity(adapter)) << output;
    }
    for (const char* file : {"/adapter_config.json", "/adapter_model.safetensors"}) {
      EXPECT_EQ(place().read(adapter + "0" + file), place().read(adapter + file));
    }
  }
  const Outcome cut = run({"convert", "--adapter", "@rora", "--output", "@cut", "--rank", "1"});
  ASSERT_EQ(cut.code, 0) << cut.err;
  EXPECT_THAT(cut.out, HasSubstr("rank 1 changes model.layers."));
  EXPECT_EQ(place().json("cut/adapter_config.json")["r"], 1);
  expect_error(run({"convert", "--adapter", "@dora", "--output", "@cut_dora", "--rank", "1"}), 1, "cannot be cut to 1");
  const Outcome first = run({"convert", "--adapter", "@rora", "--output", "@first", "--first-ranks", "1"});
  ASSERT_EQ(first.code, 0) << first.err;
  EXPECT_EQ(place().json("first/adapter_config.json")["r"], 1);
  EXPECT_EQ(
      place().json("first/adapter_config.json")["lora_alpha"], place().json("rora/adapter_config.json")["lora_alpha"]);
  expect_error(
      run({"convert", "--adapter", "@dora", "--output", "@cut_dora", "--first-ranks", "1"}), 1,
      "no adapter by themselves");
  EXPECT_FALSE(place().exists("cut_dora"));
}

TEST_F(Sums, AverageSaysWhetherAFactorIsShared) {
  Outcome outcome = run({"average", "@rora", "@lora", "--output", "@mean"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("averaged 0.5 of "));
  EXPECT_THAT(outcome.out, HasSubstr("14 with their factors side by side\n"));
  outcome = run({"average", "@rora", "@rora", "--weights", "100,300", "--output", "@shared"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("averaged 0.25 of "));
  EXPECT_THAT(outcome.out, HasSubstr("14 that share A, with the sum of their B\n"));
  EXPECT_THAT(outcome.out, HasSubstr("no value was rounded"));
  for (const char* file : {"/adapter_config.json", "/adapter_model.safetensors"}) {
    EXPECT_EQ(place().read(std::string("shared") + file), place().read(std::string("rora") + file));
  }
}

TEST_F(Sums, RefusesInOneLineAndLeavesNothing) {
  const std::vector<std::string> two{"combine", "--adapters", "@rora", "@lora", "--output", "@out", "--weights"};
  const auto with_weights = [&](const std::string& weights) {
    std::vector<std::string> words = two;
    words.push_back(weights);
    return run(words);
  };
  expect_error(with_weights("1"), 2, "--weights has 1 numbers for 2 adapters");
  expect_error(with_weights("1,nan"), 2, "--weights: expected finite numbers with commas, found 'nan'");
  expect_error(with_weights("1,1x"), 2, "found '1x'");
  expect_error(with_weights("1,1e300"), 1, "beyond float32");
  expect_error(run({"combine", "--adapters", "@rora", "@dora", "--weights", "1,1", "--output", "@out"}), 1, "use_dora");
  expect_error(run({"combine", "--adapters", "@rora", "--weights", "1", "--output", "@rora"}), 1, "already holds");
  expect_error(run({"average", "@rora", "--weights=-1", "--output", "@out"}), 2, "must not be negative");
  expect_error(run({"average", "@rora", "--weights", "0", "--output", "@out"}), 2, "a sum above 0");
  expect_error(run({"average", "--output", "@out"}), 2, "adapters");
  expect_error(run({"convert", "--adapter", "@rora", "--alpha", "0", "--output", "@out"}), 2, "--alpha");
  expect_error(run({"convert", "--adapter", "@rora", "--rank", "1000000", "--output", "@out"}), 1, "is over its");
  expect_error(run({"convert", "--adapter", "@model", "--output", "@out"}), 1, "adapter_config.json");
  EXPECT_FALSE(place().exists("out"));
}

} // namespace
} // namespace rora::testing
