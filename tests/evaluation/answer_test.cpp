#include <rora/evaluation/answer.h>

#include <gtest/gtest.h>

#include <cmath>
#include <string>

namespace rora {
namespace {

std::string extract(AnswerRule rule, std::string_view text) {
  return extract_answer(rule, text).value_or("unparsed");
}

Record record(std::string prompt, std::string completion, std::optional<std::string> answer = std::nullopt) {
  Record record;
  record.kind = RecordKind::kCompletion;
  record.prompt = std::move(prompt);
  record.completion = std::move(completion);
  record.answer = std::move(answer);
  return record;
}

TEST(Answer, IsTheLastNumber) {
  // Each as Python's re.findall(r"-?\d+\.?\d*", text.replace(",", ""))[-1] gives it.
  const auto number = [](std::string_view text) { return extract(AnswerRule::kLastNumber, text); };
  EXPECT_EQ(number("16 - 12 = 4 kids. The answer is 4."), "4.");
  EXPECT_EQ(number("It costs $1,234,567.50 in all"), "1234567.50");
  EXPECT_EQ(number("from 3 to -7"), "-7");
  EXPECT_EQ(number("3-4"), "-4");
  EXPECT_EQ(number("3--4-"), "-4");
  EXPECT_EQ(number("1.2.3"), "3");
  EXPECT_EQ(number("version 1..2"), "2");
  EXPECT_EQ(number(".5"), "5");
  EXPECT_EQ(number("1, 2, 3"), "3");
  EXPECT_EQ(number("1e5"), "5");
  EXPECT_EQ(number("no number - at all."), "unparsed");
  EXPECT_EQ(number(""), "unparsed");
  EXPECT_EQ(number("-"), "unparsed");
}

TEST(Answer, IsTheFirstChoiceInTheText) {
  EXPECT_EQ(extract(AnswerRule::kTrueFalse, "the correct answer is false, not true"), "false");
  EXPECT_EQ(extract(AnswerRule::kTrueFalse, "untrue"), "true");
  EXPECT_EQ(extract(AnswerRule::kTrueFalse, "True"), "unparsed");
  EXPECT_EQ(extract(AnswerRule::kSolution, "Solution1 solution3 solution2 solution1"), "solution2");
  EXPECT_EQ(extract(AnswerRule::kAnswer, "the correct answer is answer5answer1"), "answer5");
  EXPECT_EQ(extract(AnswerRule::kAnswer, "answer6 answer0"), "unparsed");
  EXPECT_EQ(extract(AnswerRule::kEnding, "ending5 ending4"), "ending4");
  EXPECT_EQ(extract(AnswerRule::kOption, "option12"), "option1");
  EXPECT_EQ(extract(AnswerRule::kOption, ""), "unparsed");
}

TEST(Answer, NumbersAreTheSameWithinAThousandth) {
  const auto same = [](std::string_view a, std::string_view b) {
    return is_same_answer(AnswerRule::kLastNumber, a, b);
  };
  EXPECT_TRUE(same("4.", "4.0"));
  EXPECT_TRUE(same("1234.5", "1,234.5"));
  EXPECT_TRUE(same("0.3333", "0.333"));
  EXPECT_FALSE(same("0.334", "0.333"));
  EXPECT_FALSE(same("-4", "4"));
  EXPECT_FALSE(same("four", "four"));
  EXPECT_FALSE(same("4", "4 kids"));
  EXPECT_FALSE(same(std::string(400, '9'), std::string(400, '9'))); // infinite
  EXPECT_FALSE(same("", ""));
}

TEST(Answer, ChoicesAreTheSameByTheirText) {
  EXPECT_TRUE(is_same_answer(AnswerRule::kOption, "option1", "option1"));
  EXPECT_FALSE(is_same_answer(AnswerRule::kOption, "option1", "option2"));
}

TEST(GoldAnswers, FollowFromTheAnswerKey) {
  const auto rule = [](const std::string& answer) {
    return gold_answer(record("Answer format: true/false", "7", answer))->rule;
  };
  EXPECT_EQ(rule("false"), AnswerRule::kTrueFalse);
  EXPECT_EQ(rule("solution2"), AnswerRule::kSolution);
  EXPECT_EQ(rule("answer5"), AnswerRule::kAnswer);
  EXPECT_EQ(rule("ending3"), AnswerRule::kEnding);
  EXPECT_EQ(rule("option1"), AnswerRule::kOption);
  EXPECT_EQ(rule("-4.0"), AnswerRule::kLastNumber);
  EXPECT_EQ(gold_answer(record("", "", "1,000"))->text, "1,000");
  EXPECT_FALSE(gold_answer(record("Answer format: true/false", "true", "maybe")));
  EXPECT_FALSE(gold_answer(record("", "5", "")));
}

TEST(GoldAnswers, FollowFromTheAnswerFormat) {
  const auto gold = gold_answer(record(
      "Which?\n\nAnswer1: true Answer2: 3\n\nAnswer format: answer1/answer2\n\n### Response:\n",
      "the correct answer is answer2"));
  ASSERT_TRUE(gold);
  EXPECT_EQ(gold->rule, AnswerRule::kAnswer);
  EXPECT_EQ(gold->text, "answer2");
  EXPECT_FALSE(gold_answer(record("Answer format: option1/option2", "the second, 2")));
}

TEST(GoldAnswers, AreTheLastNumberElse) {
  const auto gold = gold_answer(record("How many?", "2 + 2 = 4."));
  ASSERT_TRUE(gold);
  EXPECT_EQ(gold->rule, AnswerRule::kLastNumber);
  EXPECT_EQ(gold->text, "4.");
  EXPECT_EQ(gold_answer(record("Answer format: a number", "2"))->rule, AnswerRule::kLastNumber);
  EXPECT_FALSE(gold_answer(record("How many?", "none")));
}

TEST(AnswerScores, CountRightWrongAndUnparsed) {
  AnswerScore score;
  const GoldAnswer gold{AnswerRule::kLastNumber, "4.0"};
  for (const char* text : {"is 4.", "4,", "5", "none", "4", "3 or 4", "-4", "", "4.01", "4.0009"}) {
    score.add(gold, text);
  }
  EXPECT_EQ(score.count, 10);
  EXPECT_EQ(score.correct, 5);
  EXPECT_EQ(score.unparsed, 2);
  EXPECT_DOUBLE_EQ(score.accuracy(), 0.5);
  EXPECT_DOUBLE_EQ(score.standard_error(), std::sqrt(0.025));
  EXPECT_DOUBLE_EQ(score.unparsed_share(), 0.2);
}

TEST(AnswerScores, AreNoNumberWithoutAnswers) {
  const AnswerScore score;
  EXPECT_TRUE(std::isnan(score.accuracy()));
  EXPECT_TRUE(std::isnan(score.standard_error()));
  EXPECT_TRUE(std::isnan(score.unparsed_share()));
}

} // namespace
} // namespace rora
