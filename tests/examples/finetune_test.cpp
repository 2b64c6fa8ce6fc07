#include "examples/support.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <thread>

namespace rora::testing {
namespace {

const std::vector<std::string> kMetrics{"step",         "loss",        "lr", "grad_norm", "tokens", "labelled_tokens",
                                        "tokens_per_s", "peak_rss_mib"};

std::vector<std::string> keys(const Json& json) {
  std::vector<std::string> names;
  for (const auto& [key, value] : json.items()) {
    names.push_back(key);
  }
  return names;
}

TEST(Finetune, WritesAnAdapterItsRunAndAMetricsLineAStep) {
  const Workplace place;
  const Outcome outcome = run_rora(place.finetune("run", 20, {"--rank", "4", "--alpha", "8"}));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "");
  EXPECT_TRUE(place.exists("run/adapter_model.safetensors"));
  EXPECT_FALSE(place.exists("run/.partial"));
  const Json config = place.json("run/adapter_config.json");
  EXPECT_EQ(config["r"], 4);
  EXPECT_EQ(config["lora_alpha"], 8);
  EXPECT_EQ(config["use_rslora"], true);
  EXPECT_EQ(config["target_modules"].size(), 7);
  const auto metrics = place.lines("run/metrics.jsonl");
  ASSERT_EQ(metrics.size(), 20);
  for (size_t i = 0; i < metrics.size(); ++i) {
    EXPECT_EQ(keys(metrics[i]), kMetrics);
    EXPECT_EQ(metrics[i]["step"], i + 1);
  }
  EXPECT_LT(metrics.back()["loss"].get<double>(), 0.7 * metrics.front()["loss"].get<double>());
  const Json run = place.json("run/run.json");
  EXPECT_EQ(run["finished"], true);
  EXPECT_EQ(run["config"]["rank"], 4);
  EXPECT_EQ(run["config"]["scaling"], "rank-stabilized");
  EXPECT_EQ(run["results"]["steps"], 20);
  EXPECT_EQ(run["results"]["final_loss"], metrics.back()["loss"]);
  // Two layers of q, k, v, o (16, 8, 8, 16 outputs of 16 inputs) and gate, up, down (16 and 24).
  EXPECT_EQ(run["results"]["trainable_parameters"], 2 * 4 * (32 + 24 + 24 + 32 + 3 * 40));
}

TEST(Finetune, GoesOnFromACheckpointToTheSameBytes) {
  const Workplace place;
  const std::vector<std::string> more{"--dropout",    "0.1", "--dora", "--eval-data", place.path("train.jsonl"),
                                      "--eval-every", "5"};
  ASSERT_EQ(run_rora(place.finetune("whole", 300, more)).code, 0);

  Process process(place.finetune("cut", 300, more));
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (place.read("cut/metrics.jsonl").size() < 500 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  process.signal(SIGINT);
  const Outcome cut = process.wait();
  expect_error(cut, 130, "--resume");
  const size_t steps = place.lines("cut/metrics.jsonl").size();
  ASSERT_LT(steps, 300);
  EXPECT_EQ(place.json("cut/run.json")["finished"], false);
  EXPECT_FALSE(place.exists("cut/adapter_config.json"));
  // A line of a step after the checkpoint, as a killed process leaves it.
  place.write(
      "cut/metrics.jsonl",
      place.read("cut/metrics.jsonl") + "{\"step\": " + std::to_string(steps + 1) + ", \"loss\": 0}\n{\"st");

  auto resumed = more;
  resumed.push_back("--resume");
  const Outcome rest = run_rora(place.finetune("cut", 300, resumed));
  ASSERT_EQ(rest.code, 0) << rest.err;
  EXPECT_EQ(place.read("cut/adapter_model.safetensors"), place.read("whole/adapter_model.safetensors"));
  EXPECT_EQ(place.json("cut/run.json")["results"]["resumed_from_step"], steps);
  const auto whole_lines = place.lines("whole/metrics.jsonl");
  const auto cut_lines = place.lines("cut/metrics.jsonl");
  ASSERT_EQ(cut_lines.size(), whole_lines.size());
  for (size_t i = 0; i < whole_lines.size(); ++i) {
    EXPECT_EQ(cut_lines[i]["loss"], whole_lines[i]["loss"]) << "step " << i + 1;
    EXPECT_EQ(cut_lines[i].contains("eval_loss"), (i + 1) % 5 == 0);
  }

  const std::string adapter = place.read("cut/adapter_model.safetensors");
  const Outcome finished = run_rora(place.finetune("cut", 300, resumed));
  EXPECT_EQ(finished.code, 0);
  EXPECT_NE(finished.out.find("finished"), std::string::npos);
  EXPECT_EQ(place.read("cut/adapter_model.safetensors"), adapter);
}

TEST(Finetune, EverySignalThatEndsItLeavesACheckpointAndItsOwnCode) {
  for (const int number : {SIGTERM, SIGHUP}) {
    const Workplace place;
    Process process(place.finetune("run", 100000));
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (place.read("run/metrics.jsonl").size() < 500 && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    process.signal(number);
    expect_error(process.wait(), 128 + number, "--resume");
    const std::string step = std::to_string(place.lines("run/metrics.jsonl").size());
    EXPECT_TRUE(place.exists("run/checkpoint-" + step + "/adapter_model.safetensors"));
  }
}

TEST(Finetune, ResumeStartsAfreshWithoutACheckpoint) {
  const Workplace place;
  ASSERT_EQ(run_rora(place.finetune("fresh", 2)).code, 0);
  ASSERT_EQ(run_rora(place.finetune("resumed", 2, {"--resume"})).code, 0);
  EXPECT_EQ(place.read("fresh/adapter_model.safetensors"), place.read("resumed/adapter_model.safetensors"));
}

TEST(Finetune, TakesItsFlagsFromAFileUnlessTheyAreGiven) {
  const Workplace place;
  place.write(
      "config.json",
      Json({{"data", {place.path("train.jsonl")}},
            {"model", place.path("model")},
            {"rank", 2},
            {"alpha", 3.5},
            {"dora", true},
            {"shuffle", false},
            {"epochs", 5},
            {"target-modules", {"q_proj", "v_proj"}}})
          .dump());
  const Outcome outcome = run_rora(
      {"finetune", "--config", place.path("config.json"), "--output", place.path("run"), "--rank=3", "--max-steps",
       "2"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const Json config = place.json("run/run.json")["config"];
  EXPECT_EQ(config["rank"], 3);
  EXPECT_EQ(config["alpha"], 3.5);
  EXPECT_EQ(config["dora"], true);
  EXPECT_EQ(config["shuffle"], "off");
  EXPECT_EQ(config["max-steps"], 2);
  EXPECT_FALSE(config.contains("epochs"));
  EXPECT_EQ(place.json("run/adapter_config.json")["target_modules"], Json({"q_proj", "v_proj"}));

  // What was resolved is such a file.
  place.write("again.json", config.dump());
  const Outcome again = run_rora({"finetune", "--config", place.path("again.json"), "--output", place.path("again")});
  ASSERT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(place.read("again/adapter_model.safetensors"), place.read("run/adapter_model.safetensors"));
}

TEST(Finetune, KeepsTheFilesOrderWithoutShufflingAndTheLastOfAFlagsValues) {
  const Workplace place;
  ASSERT_EQ(run_rora(place.finetune("run", 3, {"--shuffle", "off", "--batch-size", "1"})).code, 0);
  const auto metrics = place.lines("run/metrics.jsonl");
  ASSERT_EQ(metrics.size(), 3);
  for (size_t i = 0; i < metrics.size(); ++i) {
    EXPECT_EQ(metrics[i]["tokens"], 5 + i); // as the records are written
    EXPECT_EQ(metrics[i]["labelled_tokens"], 3 + i);
  }
}

TEST(Finetune, GoesOnFromAnotherAdapter) {
  const Workplace place;
  ASSERT_EQ(
      run_rora(place.finetune(
                   "first", 10,
                   {"--rank", "2", "--alpha", "5", "--scaling", "standard", "--target-modules", "q_proj,o_proj"}))
          .code,
      0);
  const Outcome second = run_rora(place.finetune("second", 1, {"--init-adapter", place.path("first"), "--alpha", "5"}));
  ASSERT_EQ(second.code, 0) << second.err;
  const Json config = place.json("second/adapter_config.json");
  EXPECT_EQ(config["r"], 2);
  EXPECT_EQ(config["use_rslora"], false);
  EXPECT_EQ(config["target_modules"], Json({"q_proj", "o_proj"}));
  EXPECT_LT(
      place.lines("second/metrics.jsonl")[0]["loss"].get<double>(),
      place.lines("first/metrics.jsonl")[0]["loss"].get<double>());
  expect_error(
      run_rora(place.finetune("third", 1, {"--init-adapter", place.path("first"), "--rank", "4"})), 2,
      "--rank contradicts --init-adapter");
  EXPECT_FALSE(place.exists("third"));
}

TEST(Finetune, DryRunShowsThePlanAndWritesNothing) {
  const Workplace place;
  const Outcome outcome = run_rora(place.finetune("run", 5, {"--dry-run"}));
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  for (const char* text : {"12 examples", "frozen weights", "optimiser state", "first batch: 4 x", "input_ids ["}) {
    EXPECT_NE(outcome.out.find(text), std::string::npos) << text;
  }
  EXPECT_FALSE(place.exists("run"));
}

TEST(Finetune, DryRunChecksTheFolderAndTheCheckpoint) {
  const Workplace place;
  expect_error(run_rora(place.finetune("train.jsonl/run", 5, {"--dry-run"})), 1, "train.jsonl is not a folder");
  ASSERT_EQ(run_rora(place.finetune("run", 4, {"--save-every", "2"})).code, 0);
  Json run = place.json("run/run.json");
  run["finished"] = false;
  place.write("run/run.json", run.dump());
  const Outcome outcome = run_rora(place.finetune("run", 4, {"--resume", "--dry-run"}));
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("going on from step 4"), std::string::npos) << outcome.out;
  expect_error(run_rora(place.finetune("run", 4, {"--resume", "--dry-run", "--rank", "4"})), 1, "run.rank");
}

TEST(Finetune, CountsWhatWasCutAndWhatLostItsAnswer) {
  const Workplace place;
  place.write(
      "long.jsonl",
      "{\"input_ids\": [3, 4, 5, 6, 7], \"labels\": [-100, -100, 5, 6, 7]}\n"
      "{\"input_ids\": [3, 4, 5, 6, 7], \"labels\": [-100, -100, -100, -100, 7]}\n"
      "{\"input_ids\": []}\n");
  const Outcome outcome = run_rora(place.finetune("run", 1, {"--data", place.path("long.jsonl"), "--max-length", "4"}));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("1 left out without an answer once cut, 1 empty"), std::string::npos) << outcome.out;
  const Json data = place.json("run/run.json")["results"]["data"];
  EXPECT_EQ(data, Json({{"examples", 13}, {"truncated", 13}, {"unanswered", 1}, {"skipped", 1}}));
}

TEST(Finetune, HelpPrintsTheDefaults) {
  const Outcome outcome = run_rora({"finetune", "--help"});
  EXPECT_EQ(outcome.code, 0);
  for (const char* text :
       {"--rank N=16", "--alpha X=16", "=rank-stabilized", "--lr X=0.0002", "=linear", "--epochs N=3"}) {
    EXPECT_NE(outcome.out.find(text), std::string::npos) << text << "\n" << outcome.out;
  }
}

} // namespace
} // namespace rora::testing
