#include "examples/support.h"

#include <rora/checkpoint/safetensors.h>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

namespace rora::testing {
namespace {

TEST(Merge, WritesAModelThatDiffersFromItsBaseAndNeedsNoAdapter) {
  const Workplace place;
  ASSERT_EQ(run_rora(place.finetune("run", 5, {"--dora"})).code, 0);
  const std::vector<std::string> arguments{"merge",           "--model",  place.path("model"), "--adapter",
                                           place.path("run"), "--output", place.path("merged")};
  place.write("model/tokenizer_config.json", "{ \"kept\": \"byte for byte\" }\n");
  const Outcome outcome = run_rora(arguments);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("14 modules"), std::string::npos) << outcome.out;
  EXPECT_NE(place.read("merged/model.safetensors"), place.read("model/model.safetensors"));
  EXPECT_EQ(place.read("merged/model.safetensors").size(), place.read("model/model.safetensors").size());
  EXPECT_EQ(place.read("merged/tokenizer_config.json"), place.read("model/tokenizer_config.json"));
  EXPECT_FALSE(place.exists("merged/.partial"));
  expect_error(run_rora(arguments), 1, "already holds a model");
}

/// Changes the tensors of an adapter's folder whose names hold `part`.
void change_tensors(
    const std::filesystem::path& adapter, const std::string& part, const std::function<void(at::Tensor&)>& change) {
  const std::filesystem::path path = adapter / "adapter_model.safetensors";
  NamedTensors tensors;
  {
    const SafetensorsFile file(path);
    for (const std::string& name : file.names()) {
      tensors.emplace_back(name, file.tensor(name).clone());
      if (name.find(part) != std::string::npos) {
        change(tensors.back().second);
      }
    }
  }
  save_safetensors(path, tensors);
}

TEST(Merge, WritesEachWeightFormedInFloat64AndRoundedOnce) {
  const Workplace place;
  ASSERT_EQ(run_rora(place.finetune("run", 3, {"--rank", "4", "--alpha", "6"})).code, 0);
  for (const auto& [dtype, type] : {std::pair("float32", at::kFloat), std::pair("bfloat16", at::kBFloat16)}) {
    const std::string merged = std::string("merged-") + dtype;
    const Outcome outcome = run_rora(
        {"merge", "--model", place.path("model"), "--adapter", place.path("run"), "--output", place.path(merged),
         "--dtype", dtype});
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_NE(outcome.out.find("each weight within one rounding of W + s*B*A"), std::string::npos) << outcome.out;
    const SafetensorsFile base(place.path("model/model.safetensors"));
    const SafetensorsFile adapter(place.path("run/adapter_model.safetensors"));
    const SafetensorsFile written(place.path(merged + "/model.safetensors"));
    for (const std::string module : {"model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"}) {
      const auto factor = [&](const std::string& name) {
        return adapter.tensor("base_model.model." + module + "." + name + ".weight").to(at::kDouble);
      };
      const at::Tensor exact = base.tensor(module + ".weight")
                                   .to(type)
                                   .to(at::kDouble)
                                   .addmm(factor("lora_B"), factor("lora_A"), /*beta=*/1, /*alpha=*/3.0); // 6/√4
      EXPECT_TRUE(at::equal(written.tensor(module + ".weight"), exact.to(type))) << module << " in " << dtype;
    }
  }
}

/// Two columns of B that are huge and cancel each other cost the adapted model the digits that its merged weights have.
TEST(Merge, AModelOfBadConditionIsMergedAllTheSame) {
  const Workplace place;
  ASSERT_EQ(run_rora(place.finetune("run", 2)).code, 0);
  change_tensors(place.path("run"), "v_proj.lora_A", [](at::Tensor& a) { a[1].copy_(a[0]); });
  change_tensors(place.path("run"), "v_proj.lora_B", [](at::Tensor& b) {
    b.select(1, 0).add_(3e4);
    b.select(1, 1).sub_(3e4);
  });
  const Outcome outcome = run_rora(
      {"merge", "--model", place.path("model"), "--adapter", place.path("run"), "--output", place.path("merged")});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const std::string before = "logits differ from the adapted model's by ";
  const size_t found = outcome.out.find(before);
  ASSERT_NE(found, std::string::npos) << outcome.out;
  EXPECT_GT(std::stod(outcome.out.substr(found + before.size())), 1e-4) << "the case is not hard enough";
}

TEST(Merge, AChangeThatRoundingSwallowsIsRefused) {
  const Workplace place;
  ASSERT_EQ(run_rora(place.finetune("run", 1)).code, 0);
  change_tensors(place.path("run"), "v_proj.lora_B", [](at::Tensor& b) { b.mul_(1e-12); });
  expect_error(
      run_rora(
          {"merge", "--model", place.path("model"), "--adapter", place.path("run"), "--output", place.path("merged"),
           "--dtype", "bfloat16"}),
      1, "merging did not change model.layers.0.self_attn.v_proj.weight: a wider --dtype may help");
  EXPECT_FALSE(place.exists("merged"));
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
      1, "lora_A");
  EXPECT_FALSE(place.exists("merged"));
}

TEST(Merge, AFolderThatHoldsAnAdapterIsRefused) {
  const Workplace place;
  ASSERT_EQ(run_rora(place.finetune("run", 1)).code, 0);
  expect_error(
      run_rora(
          {"merge", "--model", place.path("model"), "--adapter", place.path("run"), "--output", place.path("run")}),
      1, "already holds an adapter");
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
  EXPECT_EQ(Json::parse(adapter.out)["scale"], 3.0); // 6/√4
}

TEST(Inspect, TellsSharesFromAConfigurationAlone) {
  const Workplace place;
  std::filesystem::remove(place.path("model/model.safetensors"));
  const std::vector<std::string> params{"inspect", "--params", "--model", place.path("model")};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), params.begin(), params.end());
    return run_rora(more);
  };
  const Outcome outcome = with({"--rank", "4", "--target-modules", "q_proj,down_proj"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, ::testing::ContainsRegex("lora, rora +[0-9]+ +[0-9]+ +[0-9]+[.][0-9][0-9][0-9][0-9]\n"));
  expect_error(with({"--target-modules", "nothing"}), 1, "'nothing' matches nothing");
  expect_error(run_rora({"inspect", "--model", place.path("model"), "--rank", "4"}), 2, "--rank needs --params");
  expect_error(run_rora({"inspect", "--params"}), 2, "--params needs --model");
}

} // namespace
} // namespace rora::testing
