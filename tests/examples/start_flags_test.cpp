// How `rora finetune --init` and `--method` begin, and go on, a run.

#include "examples/support.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <thread>

namespace rora::testing {
namespace {

using ::testing::HasSubstr;

constexpr int kSteps = 6;

/// As if the run had been killed behind its last checkpoint, or ahead of the first.
void interrupt(const Workplace& place, const std::string& folder) {
  auto run = place.json(folder + "/run.json");
  run["finished"] = false;
  place.write(folder + "/run.json", run.dump());
  for (const char* result : {"/adapter_config.json", "/adapter_model.safetensors"}) {
    std::filesystem::remove(place.path(folder) + result);
  }
}

/// Stops a run midway, goes on with it, and compares what comes of it with a run that was never stopped.
void expect_the_same_after_a_stop(const Workplace& place, std::vector<std::string> flags) {
  constexpr int kManySteps = 300;
  ASSERT_EQ(run_rora(place.finetune("whole", kManySteps, flags)).code, 0);
  Process process(place.finetune("parts", kManySteps, flags));
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (place.read("parts/metrics.jsonl").size() < 500 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  process.signal(SIGTERM);
  ASSERT_EQ(process.wait().code, 128 + SIGTERM) << "it had ended already, or never began";
  flags.push_back("--resume");
  const Outcome resumed = run_rora(place.finetune("parts", kManySteps, flags));
  ASSERT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_THAT(resumed.out, HasSubstr("going on from step "));
  EXPECT_EQ(place.read("parts/adapter_model.safetensors"), place.read("whole/adapter_model.safetensors"));
  EXPECT_EQ(place.read("parts/adapter_config.json"), place.read("whole/adapter_config.json"));
}

class EachStart : public ::testing::TestWithParam<const char*> {
 protected:
  static std::vector<std::string> with(const char* init) {
    std::vector<std::string> flags{"--init", init, "--rank", "4"};
    if (std::string(init) == "gora") {
      flags.insert(flags.end(), {"--min-rank", "2", "--max-rank", "8", "--gora-batches", "2"});
    }
    return flags;
  }
};

TEST_P(EachStart, TrainsAndGoesOnAfterAStopBitForBit) {
  const Workplace place;
  expect_the_same_after_a_stop(place, with(GetParam()));
}

INSTANTIATE_TEST_SUITE_P(
    All, EachStart, ::testing::Values("gaussian", "gora", "lora-ga", "lora-one", "pissa", "milora", "olora", "eva"),
    [](const auto& info) {
      std::string name = info.param;
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

const std::vector<std::string> kGora{"--init",     "gora", "--rank",         "4", "--min-rank", "2",
                                     "--max-rank", "8",    "--gora-batches", "2"};

std::vector<std::string> gora(const std::vector<std::string>& more) {
  auto flags = kGora;
  flags.insert(flags.end(), more.begin(), more.end());
  return flags;
}

TEST(StartFlags, WriteTheRanksAndTheirPicture) {
  const Workplace place;
  const Outcome outcome = run_rora(place.finetune("run", kSteps, kGora));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("gora: ranks from "));
  EXPECT_THAT(place.read("run/ranks.csv"), HasSubstr("model.layers.0.self_attn.q_proj,"));
  EXPECT_THAT(place.read("run/ranks.svg"), HasSubstr("<title>The rank of each projection, by layer</title>"));
  EXPECT_FALSE(place.json("run/adapter_config.json")["rank_pattern"].empty());
}

TEST(StartFlags, ReadStatisticsThatAnEarlierRunWrote) {
  const Workplace place;
  const std::vector<std::string> kept{"--statistics", place.path("statistics")};
  ASSERT_EQ(run_rora(place.finetune("first", kSteps, gora(kept))).code, 0);
  const auto written = std::filesystem::last_write_time(place.path("statistics"));
  ASSERT_EQ(run_rora(place.finetune("second", kSteps, gora(kept))).code, 0);
  EXPECT_EQ(std::filesystem::last_write_time(place.path("statistics")), written);
  EXPECT_EQ(place.read("first/adapter_model.safetensors"), place.read("second/adapter_model.safetensors"));
  ASSERT_EQ(run_rora(place.finetune("none", kSteps, kGora)).code, 0);
  EXPECT_EQ(place.read("first/adapter_model.safetensors"), place.read("none/adapter_model.safetensors"));
  expect_error(
      run_rora(place.finetune("other", kSteps, gora({"--statistics", place.path("statistics"), "--seed", "7"}))), 1,
      "'seed' was '42' and is now '7'");
}

TEST(StartFlags, NameTheStartThatARunCannotGoOnWithout) {
  const Workplace place;
  const auto flags = gora({"--save-every", "4"});
  ASSERT_EQ(run_rora(place.finetune("run", kSteps, flags)).code, 0);
  interrupt(place, "run");
  std::filesystem::remove(place.path("run/start.safetensors"));
  auto resumed = flags;
  resumed.push_back("--resume");
  expect_error(run_rora(place.finetune("run", kSteps, resumed)), 1, "start.safetensors");
  place.write("run/start.safetensors", "cut off");
  expect_error(run_rora(place.finetune("run", kSteps, resumed)), 1, "start.safetensors");
}

TEST(StartFlags, RefuseToGoOnWithAnother) {
  const Workplace place;
  ASSERT_EQ(run_rora(place.finetune("run", kSteps, {"--init", "pissa", "--rank", "4", "--save-every", "4"})).code, 0);
  interrupt(place, "run");
  expect_error(
      run_rora(place.finetune("run", kSteps, {"--init", "olora", "--rank", "4", "--save-every", "4", "--resume"})), 1,
      "'init' was 'pissa' and is now 'olora'");
}

TEST(StartFlags, GoOnWithTheStartOfTheSameFlagsAloneBeforeTheFirstCheckpointToo) {
  const Workplace place;
  const auto flags = gora({"--save-every", "0"});
  ASSERT_EQ(run_rora(place.finetune("run", kSteps, flags)).code, 0);
  interrupt(place, "run");
  auto resumed = gora({"--save-every", "0", "--resume", "--alpha", "64"});
  expect_error(run_rora(place.finetune("run", kSteps, resumed)), 1, "'alpha' was '16.0' and is now '64.0'");
  resumed = gora({"--save-every", "0", "--resume", "--gora-gamma", "0.5"});
  expect_error(run_rora(place.finetune("run", kSteps, resumed)), 1, "'gora-gamma' was '0.05' and is now '0.5'");
}

TEST(StartFlags, GoraChoosesItsGammaAndItsBatches) {
  const Workplace place;
  const auto flags = gora({"--gora-adaptive-gamma", "--gora-adaptive-batches"});
  const Outcome outcome = run_rora(place.finetune("run", kSteps, flags));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("gora: 2 of 2 batches are read; gamma "));
  EXPECT_THAT(outcome.out, HasSubstr(", by which the first batch's loss of "));
  const Json config = place.json("run/run.json")["config"];
  EXPECT_EQ(config["gora-adaptive-gamma"], true);
  EXPECT_FALSE(config.contains("gora-gamma"));
  expect_error(
      run_rora(place.finetune("both", kSteps, gora({"--gora-adaptive-gamma", "--gora-gamma", "0.1"}))), 2,
      "--gora-adaptive-gamma");
  expect_the_same_after_a_stop(place, flags);
  ASSERT_EQ(
      run_rora(
          place.finetune("kept", kSteps, gora({"--gora-adaptive-batches", "--statistics", place.path("statistics")})))
          .code,
      0);
  expect_error(
      run_rora(place.finetune("other", kSteps, gora({"--statistics", place.path("statistics")}))), 1,
      "'capture-memory' was '0' and is now not said");
}

TEST(StartFlags, ANewRunReadsNoStartThatIsLyingInItsFolder) {
  const Workplace place;
  const std::vector<std::string> flags{"--init", "pissa", "--rank", "2"};
  ASSERT_EQ(run_rora(place.finetune("other", kSteps, {"--init", "pissa", "--rank", "4"})).code, 0);
  std::filesystem::create_directory(place.path("run"));
  std::filesystem::copy(place.path("other/start.safetensors"), place.path("run/start.safetensors"));
  ASSERT_EQ(run_rora(place.finetune("run", kSteps, flags)).code, 0);
  ASSERT_EQ(run_rora(place.finetune("clean", kSteps, flags)).code, 0);
  EXPECT_EQ(place.read("run/adapter_model.safetensors"), place.read("clean/adapter_model.safetensors"));
}

TEST(StartFlags, ListTheStartsAndTheMethods) {
  const Outcome starts = run_rora({"finetune", "--init", "help"});
  EXPECT_EQ(starts.code, 0);
  for (const char* each : {"gora", "lora-ga", "lora-one", "pissa", "milora", "olora", "eva", "2502.12171"}) {
    EXPECT_THAT(starts.out, HasSubstr(each));
  }
  const Outcome methods = run_rora({"finetune", "--method", "help"});
  EXPECT_EQ(methods.code, 0);
  EXPECT_THAT(methods.out, HasSubstr("prefix"));
  EXPECT_THAT(methods.out, HasSubstr("2501.04315"));
}

TEST(Methods, AreWhatTheirFlagsSay) {
  const Workplace place;
  ASSERT_EQ(run_rora(place.finetune("flags", kSteps, {"--dora", "--scaling", "standard"})).code, 0);
  ASSERT_EQ(run_rora(place.finetune("method", kSteps, {"--method", "dora"})).code, 0);
  EXPECT_EQ(place.read("flags/adapter_model.safetensors"), place.read("method/adapter_model.safetensors"));
}

TEST(Methods, AdaLoraTakesRanksDownToTheOneThatIsAskedFor) {
  const Workplace place;
  const std::vector<std::string> flags{"--method", "adalora", "--rank", "2", "--adalora-init-r", "5", "--alpha", "8"};
  ASSERT_EQ(run_rora(place.finetune("run", kSteps, flags)).code, 0);
  const Json config = place.json("run/adapter_config.json");
  EXPECT_EQ(config["peft_type"], "ADALORA");
  int64_t kept = 0;
  for (const auto& [module, ranks] : config["rank_pattern"].items()) {
    EXPECT_EQ(ranks.size(), 5u);
    kept += std::count(ranks.begin(), ranks.end(), Json(true));
  }
  EXPECT_EQ(kept, 2 * static_cast<int64_t>(config["rank_pattern"].size()));

  ASSERT_EQ(run_rora(place.finetune("more", kSteps, {"--init-adapter", place.path("run")})).code, 0);
  EXPECT_EQ(place.json("more/adapter_config.json")["rank_pattern"], config["rank_pattern"]);

  const Outcome merged = run_rora(
      {"merge", "--model", place.path("model"), "--adapter", place.path("run"), "--output", place.path("merged")});
  EXPECT_EQ(merged.code, 0) << merged.err;

  const auto refused = [&](const std::vector<std::string>& more, int code, const std::string& what) {
    std::vector<std::string> all = flags;
    all.insert(all.end(), more.begin(), more.end());
    expect_error(run_rora(place.finetune("refused", kSteps, all)), code, what);
    EXPECT_FALSE(place.exists("refused"));
  };
  refused({"--adalora-init-r", "1"}, 2, "--adalora-init-r 1 is below --rank 2");
  refused({"--adalora-tinit", "99"}, 1, "leave none of " + std::to_string(kSteps) + " steps");
  refused({"--cuda-graph"}, 2, "--cuda-graph");
  refused({"--init", "olora"}, 2, "--init says how low-rank adapters begin");
  refused({"--method", "lora"}, 2, "--adalora-init-r needs --method adalora");
  refused({"--sora-threshold", "0.1"}, 2, "--sora-threshold needs --method sora");
  refused({"--lora-sb-step", "0.1"}, 2, "--lora-sb-step needs --method lora-sb");
  refused({"--capture-batches", "2"}, 2, "needs --init lora-ga or lora-one or eva or --method lora-sb");
  refused({"--dylora-train-all"}, 2, "--dylora-train-all needs --method dylora");
}

TEST(Methods, RefuseWhatContradictsThemOrReachesNothing) {
  const Workplace place;
  const auto refused = [&](const std::vector<std::string>& flags, const std::string& what) {
    expect_error(run_rora(place.finetune("run", 1, flags)), 2, what);
    EXPECT_FALSE(place.exists("run"));
  };
  refused({"--method", "dora", "--scaling", "rank-stabilized"}, "--scaling: --method dora says it already");
  refused({"--method", "prefix", "--alpha", "8"}, "--alpha: --method prefix has none");
  for (const char* method : {"prefix", "lora-sb"}) {
    refused(
        {"--method", method, "--rank", "4", "--lr-ratio-b", "4"},
        "--lr-ratio-b: neither a B nor a magnitude is trained");
  }
}

class OtherKinds : public ::testing::TestWithParam<const char*> {};

TEST_P(OtherKinds, TrainAndGoOnAfterAStopBitForBit) {
  const Workplace place;
  expect_the_same_after_a_stop(place, {"--method", GetParam(), "--rank", "4"});
}

TEST_P(OtherKinds, AreTrainedAgainByTheRecordOfTheirRun) {
  const Workplace place;
  const Outcome once = run_rora(place.finetune("once", 1, {"--method", GetParam(), "--rank", "4"}));
  ASSERT_EQ(once.code, 0) << once.err;
  place.write("config.json", place.json("once/run.json")["config"].dump());
  const Outcome again = run_rora({"finetune", "--config", place.path("config.json"), "--output", place.path("again")});
  ASSERT_EQ(again.code, 0) << again.err;
  EXPECT_TRUE(place.read("again/adapter_model.safetensors") == place.read("once/adapter_model.safetensors"));
  EXPECT_EQ(place.read("again/adapter_config.json"), place.read("once/adapter_config.json"));
}

INSTANTIATE_TEST_SUITE_P(
    Methods, OtherKinds,
    ::testing::Values("series", "parallel", "prefix", "adalora", "sora", "dylora", "lora-sb", "edora"));

} // namespace
} // namespace rora::testing
