#include "common/svg_plot.h"
#include "common/ticks.h"
#include "demo/facts.h"
#include "demo/random.h"
#include "demo/report.h"
#include "demo/tiny_world.h"

#include <rora/evaluation/perplexity.h>
#include <rora/model/decoder.h>
#include <rora/model/pretrained.h>
#include <rora/text/tokenizer.h>
#include <rora/training/trainer.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <set>

namespace rora::demo {
namespace {

using examples::Figure;
using examples::format_tick;
using examples::nice_ticks;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(TinyWorld, ASeedGivesTheSameStoriesOnEveryPlatform) {
  Random random(1);
  EXPECT_EQ(random.next(), 10451216379200822465u); // SplitMix64's first number from 1
  Random one(7), other(7), third(8);
  std::string first, second, different;
  for (int i = 0; i < 50; ++i) {
    first += make_story(one);
    second += make_story(other);
    different += make_story(third);
  }
  EXPECT_EQ(first, second);
  EXPECT_NE(first, different);
}

TEST(Facts, AskForEachPairOnce) {
  const auto facts = make_facts(3, 12, 8);
  std::set<std::string> prompts, answers;
  for (const Record& fact : facts) {
    prompts.insert(fact.prompt);
    answers.insert(fact.completion);
  }
  EXPECT_EQ(prompts.size(), 96u);
  EXPECT_GT(answers.size(), 10u);
}

// A model that knew nothing would lose ln 512 = 6.2 a token.
TEST(ShippedModel, KnowsStoriesItHasNotSeen) {
  CausalLM model = load_model(RORA_DEMO_MODEL, at::kFloat);
  const auto tokenizer = load_tokenizer(RORA_DEMO_MODEL);
  Random random(2);
  std::vector<Example> stories;
  for (int i = 0; i < 40; ++i) {
    Example example;
    example.input_ids = tokenizer->encode(make_story(random));
    example.labels = example.input_ids;
    stories.push_back(example);
  }
  EXPECT_LT(evaluate_perplexity(model, stories, 20).loss, 0.9);
}

Comparison comparison() {
  Comparison comparison;
  comparison.facts = 96;
  comparison.model_parameters = 1000;
  comparison.example.prompt = "Where <is> it?";
  for (const int64_t rank : comparison.options.ranks) {
    for (const Method method : kMethods) {
      Run run;
      run.method = method;
      run.rank = rank;
      run.losses = {3.0, 2.0, std::numeric_limits<double>::quiet_NaN(), 1.0};
      run.accuracy = {0.5, 0.05};
      comparison.runs.push_back(run);
    }
  }
  return comparison;
}

/// The number behind each `name="` of a text element.
std::vector<double> attributes(const std::string& svg, const std::string& name) {
  std::vector<double> values;
  for (size_t place = svg.find("<text"); place != std::string::npos; place = svg.find("<text", place + 1)) {
    const size_t found = svg.find(" " + name + "=\"", place);
    if (found != std::string::npos && found < svg.find('>', place)) {
      values.push_back(std::stod(svg.substr(found + name.size() + 3)));
    }
  }
  return values;
}

TEST(Report, FiguresHoldOnlyFiniteNumbersAndTextInsideTheirFrame) {
  for (const std::string& svg : {loss_figure(comparison()), accuracy_figure(comparison())}) {
    EXPECT_THAT(svg, ::testing::StartsWith("<svg"));
    EXPECT_THAT(svg, Not(HasSubstr("nan")));
    EXPECT_THAT(svg, Not(HasSubstr("inf")));
    EXPECT_THAT(svg, HasSubstr("RoRA"));
    for (const double x : attributes(svg, "x")) {
      EXPECT_GE(x, 0.0);
      EXPECT_LE(x, Figure{}.width);
    }
    EXPECT_FALSE(attributes(svg, "x").empty());
  }
}

TEST(Report, EscapesWhatItQuotes) {
  EXPECT_THAT(html_report(comparison()), HasSubstr("Where &lt;is&gt; it?"));
  EXPECT_THAT(html_report(comparison()), Not(HasSubstr("<is>")));
}

TEST(Report, TheTableHasALineARun) {
  const std::string table = text_table(comparison());
  EXPECT_EQ(std::count(table.begin(), table.end(), '\n'), 1 + 9 + 2); // the ranks apart
}

TEST(Figures, ALegendThatIsTooLongForOneRowTakesMore) {
  Figure figure;
  figure.width = 440.0;
  figure.panels.push_back({"", {{{{1.0, 1.0}, {2.0, 2.0}}}}});
  for (const char* name : {"alpha/r", "alpha/sqrt(r)", "a constant", "something else"}) {
    figure.legend.push_back({name, "#000000", "", "", examples::Marker::kNone});
  }
  const std::string svg = render_svg(figure);
  for (const double x : attributes(svg, "x")) {
    EXPECT_LE(x, figure.width);
  }
  std::set<double> rows;
  for (const char* name : {"alpha/r", "something else"}) {
    const size_t text = svg.rfind("<text", svg.find(name));
    rows.insert(std::stod(svg.substr(svg.find(" y=\"", text) + 4)));
  }
  EXPECT_EQ(rows.size(), 2u);
}

TEST(Ticks, AreRoundNumbers) {
  EXPECT_THAT(
      nice_ticks(0.0, 1.0, 5), ::testing::Pointwise(::testing::DoubleNear(1e-12), {0.0, 0.2, 0.4, 0.6, 0.8, 1.0}));
  EXPECT_EQ(format_tick(0.25, true), "25%");
  EXPECT_EQ(format_tick(1000, false), "1,000");
}

} // namespace
} // namespace rora::demo
