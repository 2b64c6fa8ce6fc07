#include "examples/support.h"

#include <rora/ops/prepacked_weight.h>

#include <gtest/gtest.h>

namespace rora::testing {
namespace {

const std::vector<std::string> kKeys{"peer",         "mode",      "rank",   "dtype",     "batch",
                                     "seq",          "labelled",  "step_s", "forward_s", "tokens_per_s",
                                     "peak_rss_mib", "trainable", "loss"};

Json bench(const Workplace& place, const std::vector<std::string>& more) {
  std::vector<std::string> arguments{"bench", "--model", place.path("model"), "--batch", "2",
                                     "--seq", "16",      "--steps",           "2"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  const Outcome outcome = run_rora(arguments);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "");
  return Json::parse(outcome.out);
}

TEST(Bench, PrintsOneJsonLineOfThePeersKeys) {
  const Workplace place;
  const Json line = bench(place, {"--rank", "4", "--scaling", "standard", "--labelled", "0.5"});
  std::vector<std::string> keys;
  for (const auto& [key, value] : line.items()) {
    keys.push_back(key);
  }
  EXPECT_EQ(keys, kKeys);
  EXPECT_EQ(line["peer"], "rora");
  EXPECT_EQ(line["mode"], "lora");
  EXPECT_EQ(line["trainable"], 2 * 4 * (32 + 24 + 24 + 32 + 3 * 40));
  EXPECT_GT(line["step_s"].get<double>(), line["forward_s"].get<double>());
}

TEST(Bench, FrozenTrainsNothingAndStillGoesBackward) {
  const Workplace place;
  const Json line = bench(
      place, {"--frozen", "--dtype", "bfloat16", "--rank", "4", "--alpha", "8", "--dora", "--scaling", "standard"});
  EXPECT_EQ(line["mode"], "frozen");
  EXPECT_EQ(line["trainable"], 0);
  EXPECT_EQ(line["dtype"], "bfloat16");
}

TEST(Bench, CheckpointingIsOfABackwardAndChangesNoLoss) {
  const Workplace place;
  const Json kept = bench(place, {"--rank", "4"});
  for (const std::string each : {"selective", "full"}) {
    const Json again = bench(place, {"--rank", "4", "--checkpointing", each});
    EXPECT_EQ(again["mode"], "rslora_" + each + "_checkpointing");
    EXPECT_EQ(again["loss"], kept["loss"]);
  }
  const Outcome outcome =
      run_rora({"bench", "--model", place.path("model"), "--checkpointing", "selective", "--inference"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_NE(outcome.err.find("--checkpointing"), std::string::npos) << outcome.err;
}

TEST(Bench, TimesAForwardOfTheMergedModelWhichGivesTheAdaptersLoss) {
  const Workplace place;
  const Json apart = bench(place, {"--rank", "4", "--inference"});
  const Json merged = bench(place, {"--rank", "4", "--inference", "--merge"});
  EXPECT_EQ(apart["mode"], "rslora_inference");
  EXPECT_EQ(merged["mode"], "rslora_merged_inference");
  EXPECT_EQ(merged["trainable"], 0);
  EXPECT_NEAR(merged["loss"].get<double>(), apart["loss"].get<double>(), 1e-3);
}

TEST(Bench, PacksWeightsWhereTheProcessorReadsThemSo) {
  const Workplace place;
  const std::vector<std::string> flags{"bench", "--model", place.path("model"), "--batch", "2", "--seq", "16"};
  std::vector<std::string> packed = flags;
  packed.push_back("--pack-weights");
  const Outcome outcome = run_rora(packed);
  if (ops::can_prepack_weights(at::kFloat)) {
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(Json::parse(outcome.out)["loss"], Json::parse(run_rora(flags).out)["loss"]);
  } else {
    EXPECT_EQ(outcome.code, 2);
    EXPECT_NE(outcome.err.find("--pack-weights"), std::string::npos) << outcome.err;
  }
}

} // namespace
} // namespace rora::testing
