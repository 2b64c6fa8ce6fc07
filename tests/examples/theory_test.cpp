// rora theory, run as its users run it.

#include "examples/support.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <set>

namespace rora {
namespace {

using testing::expect_error;
using ::testing::HasSubstr;
using testing::Json;
using ::testing::Not;
using testing::Outcome;
using testing::run_rora;

class TheoryTest : public ::testing::Test {
 protected:
  Outcome theory(const std::vector<std::string>& more) const {
    std::vector<std::string> arguments{"theory", "--ranks",   "2,4,8", "--in-features", "64", "--out-features",
                                       "4",      "--samples", "300"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_rora(arguments);
  }
  std::string path(const std::string& name) const {
    return (folder_ / name).string();
  }
  std::string read(const std::string& name) const {
    std::ifstream stream(folder_ / name, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }

  testing::TemporaryFolder folder_;
};

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t place = text.find(part); place != std::string::npos; place = text.find(part, place + 1)) {
    ++found;
  }
  return found;
}

TEST_F(TheoryTest, WritesATableAPageAndTheNumbers) {
  const Outcome outcome = theory({"--output", path("out")});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "");
  EXPECT_THAT(outcome.out, HasSubstr("The paper's equations"));

  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder_ / "out")) {
    names.insert(entry.path().filename().string());
  }
  EXPECT_EQ(names, (std::set<std::string>{"theory.csv", "theory.html", "theory.json"}));

  const Json json = Json::parse(read("out/theory.json"));
  EXPECT_EQ(json["ranks"], Json({2, 4, 8}));
  EXPECT_EQ(json["closed_forms"].size(), 6u);
  EXPECT_EQ(json["exponents"].size(), 24u);
  EXPECT_EQ(json["paper"].size(), 8u);
  EXPECT_EQ(json["invariant_scales"].size(), 6u);
  for (const Json& test : json["exponents"]) {
    EXPECT_LT(test["fitted"]["low"].get<double>(), test["fitted"]["value"].get<double>());
    EXPECT_NEAR(test["fitted"]["value"].get<double>(), test["closed_form"].get<double>(), 0.3);
    EXPECT_FALSE(test["verdict"].get<std::string>().empty());
  }
  for (const Json& test : json["closed_forms"]) {
    EXPECT_EQ(test["ranks"].size(), 3u);
    EXPECT_NE(test["verdict"], "does not hold");
  }
  const std::string csv = read("out/theory.csv");
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 1 + 2 * 3 * 4 * 3);
}

TEST_F(TheoryTest, ThePageStandsAloneAndSuitsPhonesAndTheDark) {
  EXPECT_EQ(theory({"--output", path("out")}).code, 0);
  const std::string html = read("out/theory.html");
  EXPECT_EQ(count(html, "<svg"), 6u);
  EXPECT_THAT(html, HasSubstr("width=device-width"));
  EXPECT_THAT(html, HasSubstr("prefers-color-scheme: dark"));
  EXPECT_THAT(html, HasSubstr("does not hold"));
  for (const char* part : {"nan", "inf\"", "http://", "https://", "src=", "href="}) {
    std::string without = html; // but for SVG's name, which is no address to load from
    for (size_t place; (place = without.find("http://www.w3.org/2000/svg")) != std::string::npos;) {
      without.erase(place, 26);
    }
    EXPECT_THAT(without, Not(HasSubstr(part)));
  }
}

TEST_F(TheoryTest, ASeedGivesTheSameBytesWhateverTheThreads) {
  EXPECT_EQ(theory({"--output", path("one"), "--threads", "1"}).code, 0);
  EXPECT_EQ(theory({"--output", path("two"), "--threads", "2"}).code, 0);
  EXPECT_EQ(theory({"--output", path("other"), "--seed", "1"}).code, 0);
  for (const char* name : {"theory.json", "theory.csv", "theory.html"}) {
    EXPECT_EQ(read(std::string("one/") + name), read(std::string("two/") + name));
    EXPECT_NE(read(std::string("one/") + name), read(std::string("other/") + name));
  }
}

TEST_F(TheoryTest, AlphaMovesTheLinesAndLeavesTheirSlopes) {
  EXPECT_EQ(theory({"--output", path("one"), "--alpha", "1"}).code, 0);
  EXPECT_EQ(theory({"--output", path("two"), "--alpha", "2"}).code, 0);
  EXPECT_EQ(Json::parse(read("one/theory.json"))["exponents"], Json::parse(read("two/theory.json"))["exponents"]);
  EXPECT_NE(read("one/theory.csv"), read("two/theory.csv"));
}

TEST_F(TheoryTest, ANormalAIsThePapersAssumption) {
  EXPECT_EQ(theory({"--output", path("out"), "--initial-a", "normal"}).code, 0);
  EXPECT_EQ(Json::parse(read("out/theory.json"))["initial_a"], "normal");
}

TEST_F(TheoryTest, MeasuresTrainingsOfAModel) {
  const testing::Workplace place;
  const std::vector<std::string> flags{"--model",      place.path("model"),
                                       "--data",       place.path("train.jsonl"),
                                       "--steps",      "3",
                                       "--lr",         "1e-3",
                                       "--batch-size", "4",
                                       "--threads",    "1"};
  std::vector<std::string> more = flags;
  more.insert(more.end(), {"--output", path("out")});
  const Outcome outcome = theory(more);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "");
  const Json json = Json::parse(read("out/theory.json"))["training"];
  EXPECT_EQ(json["projections"], 14);
  EXPECT_EQ(json["first_step"].size(), 3u);
  EXPECT_EQ(json["exponents"].size(), 2u * 2u * 4u);
  for (const Json& test : json["exponents"]) {
    if (test["by_gradient"].is_number()) { // of the first step's outputs
      EXPECT_NEAR(test["fitted"]["value"].get<double>(), test["by_gradient"].get<double>(), 0.4);
    }
  }
  const std::string csv = read("out/training.csv");
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 1 + 3 * 4 * 3 * 14); // ranks, scales, steps, projections
  EXPECT_EQ(count(read("out/theory.html"), "<svg"), 6u + 6u + 8u);
  EXPECT_THAT(read("out/theory.html"), Not(HasSubstr("nan")));

  more.back() = path("again");
  EXPECT_EQ(theory(more).code, 0);
  EXPECT_EQ(read("out/training.csv"), read("again/training.csv"));
}

TEST_F(TheoryTest, ATrainingThatIsNotFiniteEndsAloneAndIsNamed) {
  const testing::Workplace place;
  const Outcome outcome = theory(
      {"--model", place.path("model"), "--data", place.path("train.jsonl"), "--steps", "3", "--lr", "1e30", "--output",
       path("out")});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("Not finite, and ended"));
  EXPECT_FALSE(Json::parse(read("out/theory.json"))["training"]["stopped"].empty());
}

TEST_F(TheoryTest, BadFlagsGetOneLine) {
  expect_error(run_rora({"theory", "--ranks", "4,x,8"}), 2, "--ranks: expected whole numbers");
  expect_error(run_rora({"theory", "--ranks", "4,8"}), 2, "at least three");
  expect_error(run_rora({"theory", "--ranks", "4,8,4"}), 2, "twice");
  expect_error(theory({"--samples", "99"}), 2, "--samples");
  expect_error(theory({"--in-features", "0"}), 2, "--in-features");
  expect_error(theory({"--alpha", "0"}), 2, "--alpha");
  expect_error(theory({"--initial-a", "cauchy"}), 2, "--initial-a");
  expect_error(theory({"--model", path("model")}), 2, "--model and --data go together");
  expect_error(theory({"--model", path("none"), "--data", path("none.jsonl")}), 1, "none");
  const testing::Workplace place;
  place.write("few.jsonl", R"({"input_ids": [3, 4, 5], "labels": [-100, 4, 5]})");
  expect_error(theory({"--model", place.path("model"), "--data", place.path("few.jsonl")}), 2, "there are 1");
  std::ofstream(folder_ / "file") << "x";
  expect_error(theory({"--output", path("file")}), 1, "file: is not a folder");
}

} // namespace
} // namespace rora
