#include "examples/support.h"

#include <gtest/gtest.h>

#include <sys/stat.h>

#include <fstream>
#include <thread>

namespace rora::testing {
namespace {

std::string story(int number) {
  const char* animals[] = {"cat", "dog", "hen", "fox"};
  const std::string animal = animals[number % 4];
  return "The " + animal + " went to the market. The " + animal + " came home at noon, and the day was good.";
}

TEST(Pretrain, TrainsATokenizerAndAModelThatTheOtherSubcommandsRead) {
  const Workplace place;
  std::string records;
  for (int i = 0; i < 40; ++i) {
    records += Json({{"text", story(i)}}).dump() + "\n";
  }
  place.write("stories.jsonl", records);
  Json config = place.json("model/config.json");
  config["vocab_size"] = 300;
  place.write("shape.json", config.dump());
  const std::vector<std::string> arguments{
      "pretrain",
      "--model-config",
      place.path("shape.json"),
      "--train-tokenizer",
      "290",
      "--data",
      place.path("stories.jsonl"),
      "--lr",
      "0.02",
      "--epochs",
      "8",
      "--packing",
      "--max-length",
      "64",
      "--batch-size",
      "2",
      "--threads",
      "1",
      "--output"};
  auto first = arguments;
  first.push_back(place.path("base"));
  const Outcome outcome = run_rora(first);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "");
  const auto metrics = place.lines("base/metrics.jsonl");
  EXPECT_LT(metrics.back()["loss"].get<double>(), 0.6 * metrics.front()["loss"].get<double>());
  for (const Json& line : metrics) {
    EXPECT_GT(line["labelled_tokens"].get<int>(), 0);
  }

  const Outcome ids = run_rora({"tokenize", "--model", place.path("base"), "--text", story(0)});
  ASSERT_EQ(ids.code, 0) << ids.err;
  EXPECT_EQ(Json::parse(ids.out)[0], 1); // BOS
  const Outcome plain = run_rora({"tokenize", "--model", place.path("base"), "--text", "", "--no-special"});
  EXPECT_EQ(plain.out, "[]\n") << plain.err;

  auto second = arguments;
  second.push_back(place.path("same"));
  ASSERT_EQ(run_rora(second).code, 0);
  EXPECT_EQ(place.read("base/model.safetensors"), place.read("same/model.safetensors"));
  EXPECT_EQ(place.read("base/tokenizer.model"), place.read("same/tokenizer.model"));

  const Outcome further = run_rora(
      {"pretrain", "--model", place.path("base"), "--data", place.path("stories.jsonl"), "--max-steps", "1", "--output",
       place.path("further")});
  ASSERT_EQ(further.code, 0) << further.err;
  EXPECT_EQ(place.read("base/tokenizer.model"), place.read("further/tokenizer.model"));
  EXPECT_LT(place.lines("further/metrics.jsonl")[0]["loss"].get<double>(), 0.7 * metrics.front()["loss"].get<double>());
}

TEST(Pretrain, ReadsAPipeOnceForTheTokenizerAndTheModel) {
  const Workplace place;
  Json config = place.json("model/config.json");
  config["vocab_size"] = 300;
  place.write("shape.json", config.dump());
  const std::string pipe = place.path("stories");
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  std::thread writer([&] {
    std::ofstream stream(pipe);
    for (int i = 0; i < 40; ++i) {
      stream << Json({{"text", story(i)}}).dump() << "\n";
    }
  });
  const Outcome outcome = run_rora(
      {"pretrain", "--model-config", place.path("shape.json"), "--train-tokenizer", "290", "--data", pipe,
       "--max-steps", "1", "--output", place.path("base")});
  writer.join();
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(place.exists("base/tokenizer.model"));
}

TEST(Pretrain, NeedsAModelOrItsConfiguration) {
  const Workplace place;
  expect_error(
      run_rora({"pretrain", "--data", place.path("train.jsonl"), "--output", place.path("out")}), 2, "--model-config");
}

} // namespace
} // namespace rora::testing
