#include "examples/support.h"

#include <gtest/gtest.h>

#include <sys/stat.h>
#include <unistd.h>

namespace rora::testing {
namespace {

TEST(FinetuneErrors, WrongUsageIsOneLineAndCode2) {
  const Workplace place;
  expect_error(run_rora({}), 2, "subcommand");
  expect_error(run_rora({"finetune", "--model", "x"}), 2, "required");
  expect_error(run_rora(place.finetune("run", 1, {"--rank", "0"})), 2, "--rank");
  expect_error(run_rora(place.finetune("run", 1, {"--lr", "nan"})), 2, "--lr");
  for (const char* alpha : {"0", "-1", "nan"}) {
    expect_error(run_rora(place.finetune("run", 1, {"--alpha", alpha})), 2, "--alpha: must be a number above 0");
  }
  expect_error(run_rora({"bench", "--model", place.path("model"), "--alpha", "inf"}), 2, "--alpha");
  expect_error(run_rora(place.finetune("run", 1, {"--max-steps", "010"})), 2, "--max-steps");
  expect_error(run_rora(place.finetune("run", 1, {"--rank", "0x8"})), 2, "--rank");
  expect_error(run_rora(place.finetune("run", 1, {"--schedule", "square"})), 2, "constant|linear|cosine");
  expect_error(run_rora(place.finetune("run", 1, {"--device", "cuda", "--dtype", "float16"})), 2, "float32|bfloat16");
  expect_error(run_rora(place.finetune("run", 1, {"--epochs", "2"})), 2, "--epochs");
  expect_error(run_rora(place.finetune("run", 1, {"--no-such-flag"})), 2, "--no-such-flag");
  expect_error(run_rora(place.finetune("run", 1, {"--eval-every", "1"})), 2, "--eval-data");
  expect_error(run_rora(place.finetune("run", 1, {"--early-stopping-patience", "1"})), 2, "--eval-data");
  expect_error(run_rora(place.finetune("run", 1, {"--dora-dropout", "low-rank"})), 2, "needs --dora");
  EXPECT_FALSE(place.exists("run"));
}

TEST(FinetuneErrors, TargetsThatMatchNothingAreNamed) {
  const Workplace place;
  expect_error(run_rora(place.finetune("run", 1, {"--target-modules", "q_proj,query"})), 1, "query");
  EXPECT_FALSE(place.exists("run"));
}

TEST(FinetuneErrors, AConfigFilesUnknownKeyIsNamed) {
  const Workplace place;
  place.write("config.json", R"({"rank": 4, "ranks": 5})");
  expect_error(run_rora(place.finetune("run", 1, {"--config", place.path("config.json")})), 1, "config.json: 'ranks'");
  place.write("config.json", R"({"rank": 4, "rank": 5})");
  expect_error(
      run_rora(place.finetune("run", 1, {"--config", place.path("config.json")})), 1, "key 'rank' is given twice");
  place.write("config.json", std::string(1'000'000, '['));
  expect_error(
      run_rora(place.finetune("run", 1, {"--config", place.path("config.json")})), 1, "nested deeper than 64 levels");
  place.write("config.json", "{\"rank\": ");
  expect_error(run_rora(place.finetune("run", 1, {"--config", place.path("config.json")})), 1, "config.json");
}

TEST(FinetuneErrors, NumbersBeyond64BitsAreRefused) {
  const Workplace place;
  for (const char* number : {"9223372036854775808", "-9223372036854775809", "99999999999999999999999999"}) {
    expect_error(run_rora(place.finetune("run", 1, {"--seed", number})), 2, "--seed: must fit into 64 bits");
  }
  expect_error(
      run_rora(place.finetune("run", 1, {"--rank", "1000000000"})), 2, "--rank: must be a number from 1 to 65536");
  EXPECT_FALSE(place.exists("run"));
}

TEST(FinetuneErrors, TextThatIsNotUtf8IsRefusedOrEscaped) {
  const Workplace place;
  expect_error(run_rora(place.finetune("run\xFF", 1)), 2, "--output is not UTF-8");
  expect_error(run_rora({"inspect", "--model", place.path("absent\xFF\xC3\xA9")}), 1, "absent\\xff\xC3\xA9");
  std::filesystem::rename(place.path("model"), place.path("model\xFF"));
  const Outcome outcome = run_rora({"inspect", "--model", place.path("model\xFF")});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(Json::parse(outcome.out)["model"], place.path("model\uFFFD"));
}

TEST(FinetuneErrors, PipesAndDevicesAreRefusedInsteadOfWaitedFor) {
  const Workplace place;
  const std::string pipe = place.path("pipe");
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  expect_error(run_rora(place.finetune("run", 1, {"--config", pipe})), 1, "pipe: is not a regular file");
  expect_error(
      run_rora({"pretrain", "--model-config", pipe, "--data", place.path("train.jsonl"), "--output", pipe + "-out"}), 1,
      "pipe: is not a regular file");
  expect_error(
      run_rora(
          {"finetune", "--model", place.path("model"), "--data", "/dev/zero", "--output", place.path("run"),
           "--threads", "1"}),
      1, "/dev/zero: is neither a file nor a pipe");
  ASSERT_EQ(::mkfifo(place.path("model/tokenizer.model").c_str(), 0600), 0);
  expect_error(
      run_rora({"tokenize", "--model", place.path("model"), "--text", "x"}), 1,
      "tokenizer.model: is not a regular file");
  EXPECT_FALSE(place.exists("run"));
}

TEST(FinetuneErrors, AFolderThatHoldsARunNeedsResume) {
  const Workplace place;
  ASSERT_EQ(run_rora(place.finetune("run", 1)).code, 0);
  const std::string adapter = place.read("run/adapter_model.safetensors");
  expect_error(run_rora(place.finetune("run", 2)), 1, "--resume");
  EXPECT_EQ(place.read("run/adapter_model.safetensors"), adapter);
}

TEST(FinetuneErrors, ResumeRefusesAnotherAdapter) {
  const Workplace place;
  ASSERT_EQ(run_rora(place.finetune("run", 4, {"--save-every", "2"})).code, 0);
  Json run = place.json("run/run.json");
  run["finished"] = false; // as a process leaves it that was killed before its end
  place.write("run/run.json", run.dump());
  expect_error(run_rora(place.finetune("run", 4, {"--resume", "--alpha", "32"})), 1, "run.alpha was 16");
  expect_error(run_rora(place.finetune("run", 4, {"--resume", "--scaling", "standard"})), 1, "run.scaling was");
  expect_error(run_rora(place.finetune("run", 4, {"--resume", "--dropout", "0.5"})), 1, "run.dropout was");
  EXPECT_EQ(run_rora(place.finetune("run", 4, {"--resume"})).code, 0);
}

TEST(FinetuneErrors, AnOutputThatIsAFileIsNamed) {
  const Workplace place;
  place.write("run", "");
  expect_error(run_rora(place.finetune("run", 1)), 1, "is not a folder");
}

TEST(FinetuneErrors, AFolderThatHoldsAModelIsRefused) {
  const Workplace place;
  expect_error(run_rora(place.finetune("model", 1)), 1, "already holds a model");
  EXPECT_FALSE(place.exists("model/run.json"));
}

TEST(FinetuneErrors, AFolderThatCannotBeWrittenIsNamedAndKeepsNothing) {
  const Workplace place;
  ASSERT_EQ(run_rora(place.finetune("adapter", 1)).code, 0);
  const auto merge = [&](const std::string& output) {
    return run_rora(
        {"merge", "--model", place.path("model"), "--adapter", place.path("adapter"), "--output", place.path(output)});
  };
  expect_error(run_rora(place.finetune("train.jsonl/run", 1)), 1, "train.jsonl/run");
  expect_error(merge("train.jsonl/merged"), 1, "train.jsonl/merged");
  if (::geteuid() == 0) {
    GTEST_SKIP() << "root may write to a read-only folder";
  }
  const std::filesystem::path locked = place.path("locked");
  std::filesystem::create_directory(locked);
  std::filesystem::permissions(locked, std::filesystem::perms::owner_read | std::filesystem::perms::owner_exec);
  for (const char* output : {"locked", "locked/below"}) {
    expect_error(run_rora(place.finetune(output, 1)), 1, output);
    expect_error(run_rora(place.finetune(output, 1, {"--dry-run"})), 1, output);
    expect_error(merge(output), 1, output);
  }
  std::filesystem::permissions(locked, std::filesystem::perms::owner_all);
  EXPECT_TRUE(std::filesystem::is_empty(locked));
}

TEST(FinetuneErrors, BadInputLeavesNoOutputFolder) {
  const Workplace place;
  place.write("bad.jsonl", "{\"input_ids\": [1, 2, 3]}\n{\"input_ids\": [1, \"two\"]}\n");
  expect_error(run_rora(place.finetune("run", 1, {"--eval-data", place.path("bad.jsonl")})), 1, "line 2");
  place.write("bad.jsonl", "{\"input_ids\": [1, 2, 99]}\n");
  expect_error(run_rora(place.finetune("run", 1, {"--eval-data", place.path("bad.jsonl")})), 1, "99");
  place.write("bad.jsonl", "");
  expect_error(run_rora(place.finetune("run", 1, {"--eval-data", place.path("bad.jsonl")})), 1, "bad.jsonl");
  std::string weights = place.read("model/model.safetensors");
  place.write("model/model.safetensors", weights.substr(0, weights.size() - 4));
  expect_error(run_rora(place.finetune("run", 1)), 1, "model.safetensors");
  EXPECT_FALSE(place.exists("run"));
}

TEST(FinetuneErrors, AFailureTakesBackAllTheFoldersThatItMade) {
  const Workplace place;
  std::string weights = place.read("model/model.safetensors");
  for (size_t i = weights.size() - 16 * sizeof(float); i < weights.size(); i += sizeof(float)) {
    weights.replace(i, sizeof(float), "\xFF\xFF\x7F\x7F"); // the largest number: the first step's loss overflows
  }
  place.write("model/model.safetensors", weights);
  expect_error(run_rora(place.finetune("a/b/run", 1)), 1, "not finite");
  EXPECT_FALSE(place.exists("a"));
}

TEST(FinetuneErrors, CudaGraphsOnTheCpuAreWrongUsage) {
  const Workplace place;
  const std::string said = "--cuda-graph needs --device cuda";
  expect_error(run_rora(place.finetune("run", 1, {"--cuda-graph"})), 2, said);
  expect_error(run_rora({"bench", "--model", place.path("model"), "--cuda-graph"}), 2, said);
  expect_error(
      run_rora(
          {"pretrain", "--model", place.path("model"), "--data", place.path("train.jsonl"), "--output",
           place.path("run"), "--cuda-graph"}),
      2, said);
  EXPECT_FALSE(place.exists("run"));
}

TEST(FinetuneErrors, CudaWithoutADeviceIsWrongUsage) {
  const Workplace place;
  const Outcome outcome = run_rora(place.finetune("run", 1, {"--device", "cuda", "--dry-run"}));
  if (outcome.code == 0) {
    GTEST_SKIP() << "there is a CUDA device";
  }
  expect_error(outcome, 2, "CUDA");
}

} // namespace
} // namespace rora::testing
