#include "examples/support.h"

#include <gtest/gtest.h>

namespace rora::testing {
namespace {

TEST(Merge, WritesAModelThatDiffersFromItsBaseAndNeedsNoAdapter) {
  const Workplace place;
  ASSERT_EQ(run_rora(place.finetune("run", 5, {"--dora"})).code, 0);
  const std::vector<std::string> arguments{
      "merge", "--model", place.path("model"), "--adapter", place.path("run"), "--output", place.path("merged")};
  place.write("model/tokenizer_config.json", "{ \"kept\": \"byte for byte\" }\n");
  const Outcome outcome = run_rora(arguments);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("14 projections"), std::string::npos) << outcome.out;
  EXPECT_NE(place.read("merged/model.safetensors"), place.read("model/model.safetensors"));
  EXPECT_EQ(place.read("merged/model.safetensors").size(), place.read("model/model.safetensors").size());
  EXPECT_EQ(place.read("merged/tokenizer_config.json"), place.read("model/tokenizer_config.json"));
  EXPECT_FALSE(place.exists("merged/.partial"));
  expect_error(run_rora(arguments), 1, "already holds a model");
}

TEST(Merge, AnAdapterOfAnotherModelLeavesNothing) {
  const Workplace place;
  ASSERT_EQ(run_rora(place.finetune("run", 1)).code, 0);
  Json config = place.json("run/adapter_config.json");
  config["r"] = 8;
  place.write("run/adapter_config.json", config.dump());
  expect_error(
      run_rora(
          {"merge", "--model", place.path("model"), "--adapter", place.path("run"), "--output", place.path("merged")}),
      1,
      "lora_A");
  EXPECT_FALSE(place.exists("merged"));
}

TEST(Merge, AFolderThatHoldsAnAdapterIsRefused) {
  const Workplace place;
  ASSERT_EQ(run_rora(place.finetune("run", 1)).code, 0);
  expect_error(
      run_rora(
          {"merge", "--model", place.path("model"), "--adapter", place.path("run"), "--output", place.path("run")}),
      1,
      "already holds an adapter");
  EXPECT_FALSE(place.exists("run/config.json"));
}

TEST(Inspect, DescribesModelAndAdapter) {
  const Workplace place;
  ASSERT_EQ(run_rora(place.finetune("run", 1, {"--rank", "4", "--alpha", "6"})).code, 0);
  const Outcome model = run_rora({"inspect", "--model", place.path("model")});
  ASSERT_EQ(model.code, 0) << model.err;
  EXPECT_EQ(Json::parse(model.out)["num_hidden_layers"], 2);
  const Outcome adapter = run_rora({"inspect", "--adapter", place.path("run")});
  ASSERT_EQ(adapter.code, 0) << adapter.err;
  EXPECT_EQ(Json::parse(adapter.out)["scale"], 3.0);  // 6/√4
}

}  // namespace
}  // namespace rora::testing
