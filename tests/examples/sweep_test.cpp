// rora sweep, run as its users run it.

#include "examples/support.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <fstream>
#include <random>
#include <sstream>
#include <thread>

namespace rora {
namespace {

using testing::expect_error;
using ::testing::HasSubstr;
using testing::Json;
using ::testing::Not;
using testing::Outcome;
using testing::Process;
using testing::run_rora;
using testing::Workplace;

/// Two methods, two ranks, three rates, two seeds: 24 runs of four steps, unless `more` says otherwise.
std::vector<std::string> sweep(const Workplace& place, const std::string& output, std::vector<std::string> more = {}) {
  std::vector<std::string> arguments{
      "sweep",
      "--model",
      place.path("model"),
      "--data",
      place.path("train.jsonl"),
      "--eval-data",
      place.path("train.jsonl"),
      "--output",
      place.path(output),
      "--methods",
      "lora,rora",
      "--ranks",
      "2,8",
      "--lrs",
      "0.001,0.01,0.1",
      "--seeds",
      "2",
      "--max-steps",
      "4",
      "--batch-size",
      "4",
      "--threads",
      "1"};
  for (size_t i = 0; i < more.size(); ++i) {
    const auto given = std::find(arguments.begin(), arguments.end(), more[i]);
    if (more[i].starts_with("--") && given != arguments.end()) { // of a list both values would count
      given[1] = more[++i];
    } else {
      arguments.push_back(more[i]);
    }
  }
  return arguments;
}

/// The page without what a machine's load decides: its last section.
std::string without_costs(std::string html) {
  const size_t begin = html.find("<section>\n<h2>What it costs");
  EXPECT_NE(begin, std::string::npos);
  return html.erase(begin, html.find("</section>", begin) - begin);
}

void expect_same_report(const Workplace& place, const std::string& one, const std::string& other) {
  for (const char* name : {"sweep.json", "sweep.csv", "curves.csv"}) {
    EXPECT_EQ(place.read(one + "/" + name), place.read(other + "/" + name)) << name;
  }
  EXPECT_EQ(without_costs(place.read(one + "/sweep.html")), without_costs(place.read(other + "/sweep.html")));
}

int64_t lines(const std::string& text) {
  return std::count(text.begin(), text.end(), '\n');
}

TEST(Sweep, TrainsEveryCombinationAndReports) {
  const Workplace place;
  const Outcome outcome = run_rora(sweep(place, "out"));
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "");
  for (const char* text :
       {"24 runs of 4 steps", "in all", "24/24 rora-alpha16-r8-lr0.1-seed43", "At each one's best rate",
        "differences to LoRA", "Does the best rate stay in place?", "What it costs"}) {
    EXPECT_THAT(outcome.out, HasSubstr(text));
  }
  const Json json = place.json("out/sweep.json");
  EXPECT_EQ(json["curves"].size(), 4u);
  EXPECT_EQ(json["curves"][0]["rates"].size(), 3u);
  EXPECT_EQ(json["best_rate_over_rank"].size(), 2u);
  EXPECT_EQ(json["differences"].size(), 2u);
  EXPECT_EQ(lines(place.read("out/sweep.csv")), 1 + 24);
  EXPECT_EQ(lines(place.read("out/curves.csv")), 1 + 24 * 4);
  EXPECT_EQ(lines(place.read("out/times.csv")), 1 + 24);
  const std::string run = "out/runs/rora-alpha16-r8-lr0.01-seed43";
  EXPECT_EQ(place.json(run + "/run.json")["finished"], true);
  EXPECT_FALSE(place.exists(run + "/adapter_config.json"));
  for (const auto& entry : std::filesystem::directory_iterator(place.path(run))) {
    EXPECT_THAT(entry.path().filename().string(), Not(HasSubstr("checkpoint")));
  }
}

TEST(Sweep, ARunIsWhatFinetuneDoes) {
  const Workplace place;
  EXPECT_EQ(run_rora(sweep(place, "out", {"--keep-weights"})).code, 0);
  const Outcome outcome = run_rora(place.finetune(
      "run", 4, {"--eval-data", place.path("train.jsonl"), "--rank", "8", "--lr", "0.01", "--seed", "43"}));
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  const std::string own = "out/runs/rora-alpha16-r8-lr0.01-seed43/";
  EXPECT_EQ(place.read(own + "adapter_model.safetensors"), place.read("run/adapter_model.safetensors"));
  EXPECT_EQ(place.read(own + "adapter_config.json"), place.read("run/adapter_config.json"));
  const double loss = place.json("run/run.json")["results"]["best_eval_loss"].get<double>();
  EXPECT_EQ(place.json(own + "run.json")["results"]["best_eval_loss"].get<double>(), loss);
}

TEST(Sweep, ThePageStandsAloneAndSuitsPhonesAndTheDark) {
  const Workplace place;
  EXPECT_EQ(run_rora(sweep(place, "out")).code, 0);
  std::string html = place.read("out/sweep.html");
  EXPECT_THAT(html, HasSubstr("width=device-width"));
  EXPECT_THAT(html, HasSubstr("prefers-color-scheme: dark"));
  for (size_t at; (at = html.find("http://www.w3.org/2000/svg")) != std::string::npos;) {
    html.erase(at, 26); // SVG's name, which is no address to load from
  }
  for (const char* part : {"nan", "inf\"", "http://", "https://", "src=", "href="}) {
    EXPECT_THAT(html, Not(HasSubstr(part)));
  }
}

/// The steps that all runs have on record.
int64_t steps_of(const Workplace& place, const std::string& output) {
  int64_t count = 0;
  std::error_code error;
  for (const auto& run : std::filesystem::directory_iterator(place.path(output) + "/runs", error)) {
    std::ifstream metrics(run.path() / "metrics.jsonl");
    count += std::count(std::istreambuf_iterator<char>(metrics), {}, '\n');
  }
  return count;
}

TEST(Sweep, KilledAtRandomAndResumedGivesTheSameReport) {
  const Workplace place;
  ASSERT_EQ(run_rora(sweep(place, "whole")).code, 0);
  std::mt19937 random(7);
  int kills = 0;
  for (int i = 0; i < 12; ++i) {
    // By what is on record, since no time is one at which a fast and a slow machine are both in the middle.
    const int64_t until = steps_of(place, "killed") + static_cast<int64_t>(random() % 6);
    Process process(sweep(place, "killed", {"--resume", "--save-every", "1"}));
    while (process.is_running() && steps_of(place, "killed") < until) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(random() % (i % 2 == 0 ? 20 : 600)));
    process.signal(i % 4 == 3 ? SIGTERM : SIGKILL);
    const Outcome outcome = process.wait();
    if (outcome.code == 0) {
      break;
    }
    EXPECT_THAT(outcome.code, ::testing::AnyOf(128 + SIGKILL, 128 + SIGTERM)) << outcome.err;
    ++kills;
  }
  EXPECT_GT(kills, 0);
  const Outcome outcome = run_rora(sweep(place, "killed", {"--resume"}));
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  expect_same_report(place, "whole", "killed");
}

TEST(Sweep, AFinishedRunIsNeverRepeatedAndNewOnesJoinIt) {
  const Workplace place;
  const auto few = sweep(place, "out", {"--ranks", "2", "--seeds", "1", "--lrs", "0.001,0.01"});
  EXPECT_EQ(run_rora(few).code, 0);
  expect_error(run_rora(few), 1, "--resume");
  const std::string metrics = "out/runs/lora-alpha16-r2-lr0.01-seed42/metrics.jsonl";
  const std::string before = place.read(metrics);
  const Outcome outcome = run_rora(sweep(place, "out", {"--resume"}));
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("24 runs of 4 steps, 4 of them finished"));
  EXPECT_EQ(place.read(metrics), before);
  EXPECT_EQ(run_rora(sweep(place, "other")).code, 0);
  expect_same_report(place, "out", "other");
}

TEST(Sweep, OtherFlagsOrDataAreNotOfTheSameSweep) {
  const Workplace place;
  const std::vector<std::string> small{"--ranks", "2", "--seeds", "1", "--methods", "lora", "--resume"};
  EXPECT_EQ(run_rora(sweep(place, "out", small)).code, 0);
  auto other = small;
  other.insert(other.end(), {"--max-steps", "5"});
  expect_error(run_rora(sweep(place, "out", other)), 1, "'max-steps' was 4 and is now 5");
  place.write(
      "train.jsonl",
      R"({"input_ids": [1, 5, 6, 7]})"
      "\n");
  expect_error(run_rora(sweep(place, "out", small)), 1, "'examples' was ");
}

TEST(Sweep, AnswersAreCountedByLikelihoodAndByGeneration) {
  const Workplace place;
  testing::save_text_model(place.path("text"));
  std::ostringstream records;
  for (int i = 0; i < 8; ++i) {
    const Json record{
        {"prompt", "Is it " + std::to_string(i) + "? Answer format: true/false"},
        {"completion", std::string("the correct answer is ") + (i % 2 == 0 ? "true" : "false")}};
    records << record.dump() << "\n";
  }
  place.write("questions.jsonl", records.str());
  const Outcome outcome = run_rora(
      {"sweep",
       "--model",
       place.path("text"),
       "--data",
       place.path("questions.jsonl"),
       "--eval-data",
       place.path("questions.jsonl"),
       "--output",
       place.path("out"),
       "--methods",
       "rora,dora-rora,full",
       "--ranks",
       "4",
       "--alphas",
       "16,2r",
       "--lrs",
       "0.003",
       "--seeds",
       "1",
       "--max-steps",
       "3",
       "--tasks",
       "choice,generation",
       "--limit",
       "6",
       "--beams",
       "2",
       "--max-new-tokens",
       "4",
       "--merge",
       "--threads",
       "1"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("5 runs of 3 steps")); // full has no α
  EXPECT_THAT(outcome.out, HasSubstr("DoRA, α/√r, α = 2r"));
  const Json base = place.json("out/base.json");
  for (const char* task : {"choice", "generation"}) {
    EXPECT_EQ(base["tasks"][task]["count"], 6);
    const Json run = place.json("out/runs/full-lr0.003-seed42/run.json")["results"]["tasks"][task];
    EXPECT_EQ(run["count"], 6);
    EXPECT_EQ(run["files"].size(), 1u);
  }
}

TEST(Sweep, EveryMethodTakesPart) {
  const Workplace place;
  const Outcome outcome = run_rora(sweep(
      place, "out",
      {"--methods", "lora,rora,dora,dora-rora,full,series,parallel,prefix,adalora,sora,dylora,lora-sb,edora", "--ranks",
       "2,4", "--lrs", "0.01", "--seeds", "1", "--keep-weights"}));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(lines(place.read("out/sweep.csv")), 1 + 25); // full has no rank
  const std::string runs = place.path("out/runs/");
  for (const char* run :
       {"dora-rora-alpha16-r4", "series-r4", "parallel-r4", "prefix-r4", "adalora-alpha16-r4", "sora-alpha16-r4",
        "dylora-alpha16-r4", "lora-sb-r4", "edora-alpha16-r4"}) {
    const std::string adapter = runs + run + "-lr0.01-seed42";
    const Outcome loaded = run_rora(
        {"evaluate", "--model", place.path("model"), "--adapter", adapter, "--data", place.path("train.jsonl"),
         "--task", "perplexity", "--threads", "1"});
    ASSERT_EQ(loaded.code, 0) << loaded.err;
    const Json results = Json::parse(std::ifstream(adapter + "/run.json"))["results"];
    EXPECT_NEAR(Json::parse(loaded.out)["loss"].get<double>(), results["best_eval_loss"].get<double>(), 1e-5) << run;
  }
  const Outcome full = run_rora(
      {"evaluate", "--model", runs + "full-lr0.01-seed42", "--data", place.path("train.jsonl"), "--task", "perplexity",
       "--threads", "1"});
  EXPECT_EQ(full.code, 0) << full.err;
}

TEST(Sweep, RunsThatDifferInTheirRateAloneShareWhatTheirStartCaptured) {
  const Workplace place;
  const std::vector<std::string> methods{"gora", "lora-ga", "lora-one", "eva", "lora-sb"};
  std::string list;
  for (const std::string& each : methods) {
    list += (list.empty() ? "" : ",") + each;
  }
  const std::vector<std::string> flags{"--methods", list, "--ranks", "2,4", "--seeds", "1", "--lora-sb-step", "1e-4"};
  const auto with_rates = [&](const std::string& rates) {
    std::vector<std::string> all = flags;
    all.insert(all.end(), {"--lrs", rates});
    return all;
  };
  ASSERT_EQ(run_rora(sweep(place, "two", with_rates("0.001,0.01"))).code, 0);
  ASSERT_EQ(run_rora(sweep(place, "one", with_rates("0.01"))).code, 0);
  const auto run = [&](const std::string& output, const std::string& method, const char* rank, const char* rate) {
    for (const char* alpha : {"-alpha16", ""}) {
      const std::string file = output + "/runs/" + method + alpha + "-r" + rank + "-lr" + rate + "-seed42/run.json";
      if (place.exists(file)) {
        return place.json(file);
      }
    }
    ADD_FAILURE() << method;
    return Json::object();
  };
  for (const std::string& method : methods) {
    for (const char* rank : {"2", "4"}) {
      const Json first = run("two", method, rank, "0.001"), second = run("two", method, rank, "0.01");
      const Json alone = run("one", method, rank, "0.01");
      EXPECT_THAT(first.value("start", ""), Not(HasSubstr("captured by an earlier run"))) << method;
      EXPECT_THAT(second.value("start", ""), HasSubstr("captured by an earlier run")) << method;
      EXPECT_GT(second["start_s"], 0.0);
      EXPECT_EQ(second["results"]["best_eval_loss"].get<double>(), alone["results"]["best_eval_loss"].get<double>())
          << method << " " << rank;
    }
  }
  EXPECT_FALSE(place.exists("two/statistics.safetensors"));
}

TEST(Sweep, ADivergedRunIsAResultThatIsNotRepeated) {
  const Workplace place;
  for (const char* const eval_every : {"1", "4"}) { // it is a validation that overflows, or a step
    const std::string output = std::string("out") + eval_every;
    std::vector<std::string> flags{"--methods", "lora,full", "--ranks",        "2",   "--lrs",        "1e-6,1e6",
                                   "--seeds",   "1",         "--weight-decay", "1e6", "--eval-every", eval_every};
    const Outcome outcome = run_rora(sweep(place, output, flags));
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    for (const char* const run : {"lora-alpha16-r2", "full"}) {
      EXPECT_THAT(outcome.out, HasSubstr(std::string(run) + "-lr1000000-seed42: diverged after step"));
    }
    EXPECT_EQ(lines(place.read(output + "/sweep.csv")), 1 + 4);
    flags.emplace_back("--resume");
    const Outcome again = run_rora(sweep(place, output, flags));
    EXPECT_EQ(again.code, 0) << again.err;
    EXPECT_THAT(again.out, HasSubstr("4 runs of 4 steps, 4 of them finished"));
  }
}

TEST(Sweep, SaysHowMuchOfWhatPruningLostIsWonBack) {
  const Workplace place;
  ASSERT_EQ(
      run_rora({"prune", "--model", place.path("model"), "--share", "0.3", "--output", place.path("pruned")}).code, 0);
  const Outcome outcome = run_rora(sweep(
      place, "out",
      {"--model", place.path("pruned"), "--reference-model", place.path("model"), "--ranks", "4", "--seeds", "1"}));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("won back, validation loss"));
  const Json json = place.json("out/sweep.json");
  const double base = json["base"]["eval_loss"].get<double>();
  const double reference = json["reference"]["eval_loss"].get<double>();
  const Json reached = json["curves"][0]["rates"][0]["validation loss"];
  EXPECT_NEAR(reached["won_back"].get<double>(), (reached["mean"].get<double>() - base) / (reference - base), 1e-12);
}

TEST(Sweep, RunsWithoutTheirPlanAreRefused) {
  const Workplace place;
  const std::vector<std::string> small{"--ranks", "2", "--seeds", "1", "--methods", "lora", "--lrs", "0.01"};
  EXPECT_EQ(run_rora(sweep(place, "out", small)).code, 0);
  std::filesystem::remove(place.path("out/plan.json"));
  expect_error(run_rora(sweep(place, "out", small)), 1, "without its plan.json");
}

TEST(Sweep, ADryRunPlansAndWritesNothing) {
  const Workplace place;
  const Outcome outcome = run_rora(sweep(place, "out", {"--dry-run"}));
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("24 runs of 4 steps"));
  EXPECT_THAT(outcome.out, HasSubstr("each"));
  EXPECT_FALSE(place.exists("out"));
}

TEST(Sweep, RefusesWhatCannotBe) {
  const Workplace place;
  const auto refused = [&](const std::vector<std::string>& more, int code, const std::string& text) {
    expect_error(run_rora(sweep(place, "out", more)), code, text);
    EXPECT_FALSE(place.exists("out/runs")) << text;
  };
  refused({"--methods", "lora,qora"}, 2, "there is no 'qora'; there are lora, rora");
  refused({"--methods", "lora,lora"}, 2, "--methods names a value twice");
  refused({"--ranks", "4,x"}, 2, "--ranks: expected whole numbers");
  refused({"--ranks", "0"}, 2, "--ranks: expected whole numbers");
  refused({"--alphas", "r"}, 2, "--alphas: expected numbers above 0");
  refused({"--lrs", "0"}, 2, "--lrs: expected numbers above 0");
  refused({"--lrs", "0.1,1e-1"}, 2, "--lrs names a value twice");
  refused({"--tasks", "chess"}, 2, "--tasks: expected choice or generation");
  refused({"--merge"}, 2, "--merge needs --tasks");
  refused({"--max-new-tokens", "3"}, 2, "--max-new-tokens needs --tasks generation");
  refused({"--dora-dropout", "low-rank"}, 2, "--dora-dropout needs a method with DoRA");
  refused({"--methods", "full"}, 2, "--ranks needs a method with a rank");
  refused({"--seed", "9223372036854775807"}, 2, "--seed");
  refused({"--output", ""}, 2, "--output");
  refused({"--lr", "0.1"}, 2, "--lr");
  refused(
      {"--methods", "series", "--target-modules", "q_proj"}, 2, "series stands at gate_proj, up_proj and down_proj");
  refused(
      {"--methods", "lora,prefix", "--lr-ratio-b", "4"}, 2,
      "--lr-ratio-b: neither a B nor a magnitude is trained by prefix");
  refused({"--output", place.path("model")}, 1, "already holds a model");
}

} // namespace
} // namespace rora
