#include <rora/evaluation/choice.h>

#include "evaluation/byte_llama.h"

#include <rora/evaluation/log_likelihood.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace rora {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::question;
using testing::refusal;

TEST(AnswerCandidates, StandBehindTheAnswerFormat) {
  const auto candidates = [](const std::string& prompt) { return answer_candidates(question(prompt, "")); };
  EXPECT_THAT(candidates("Answer format: true/false\n\n### Response:\n"), ElementsAre("true", "false"));
  EXPECT_THAT(candidates("Option1: a Option2: b Answer format: option1/option2"), ElementsAre("option1", "option2"));
  EXPECT_THAT(
      candidates("Answer format: x/y\nAnswer format:answer1 / answer2/answer3 \r\nthen"),
      ElementsAre("answer1", "answer2", "answer3"));
  EXPECT_THAT(candidates("Answer format: red/dark blue"), ElementsAre("red", "dark blue"));
  EXPECT_THAT(candidates("Answer format: a number"), IsEmpty());
  EXPECT_THAT(candidates("Answer format:"), IsEmpty());
  EXPECT_THAT(candidates("Answer format: a//b"), IsEmpty());
  EXPECT_THAT(candidates("Answer format: /a"), IsEmpty());
  EXPECT_THAT(candidates("Which?"), IsEmpty());
}

std::vector<Record> questions() {
  std::vector<Record> records;
  for (const std::string text : {"Is it so", "Why?", "Are two and two four? Surely.", "", "No"}) {
    records.push_back(question(text + "\nAnswer format: true/false\n", "the correct answer is true"));
    records.push_back(question(text + "\nAnswer format: answer1/answer2/answer3\n", "the correct answer is answer2"));
  }
  return records;
}

TEST(Choices, AreTheLikeliestCandidates) {
  const testing::ByteTokenizer tokenizer;
  std::vector<Record> records = questions();
  auto model = testing::byte_llama("truefalsnw123");
  std::vector<std::string> likeliest;
  for (const Record& record : records) {
    double best = -1e30;
    likeliest.emplace_back();
    for (const std::string& candidate : answer_candidates(record)) {
      const double score = log_likelihoods(
          model,
          {{tokenizer.encode(record.prompt), {tokenizer.encode("the correct answer is " + candidate, false)}}})[0][0];
      if (score > best) {
        best = score;
        likeliest.back() = candidate;
      }
    }
  }
  int64_t correct = 0;
  for (size_t i = 0; i < records.size(); ++i) {
    correct += records[i].completion == "the correct answer is " + likeliest[i] ? 1 : 0;
  }

  for (const int64_t batch_size : {1, 3, 100}) {
    int64_t done = 0;
    const auto found = evaluate_choice(model, tokenizer, records, batch_size, [&](int64_t count) { done = count; });
    EXPECT_EQ(found.score.count, 10);
    EXPECT_EQ(found.score.correct, correct);
    EXPECT_EQ(found.score.unparsed, 0);
    EXPECT_EQ(done, 10);
    ASSERT_EQ(found.predictions.size(), records.size());
    for (size_t i = 0; i < records.size(); ++i) {
      EXPECT_EQ(found.predictions[i].answer, likeliest[i]);
      EXPECT_EQ(found.predictions[i].correct, found.predictions[i].gold->text == likeliest[i]);
    }
  }
}

TEST(Choices, WithoutReadableCandidatesAreUnparsedAndWrong) {
  const testing::ByteTokenizer tokenizer;
  auto model = testing::byte_llama("true");
  std::vector<Record> records{
      question("How many?", "4"),
      question("Answer format: true/false\n", "the correct answer is true"),
      question("Answer format: answer1/answer2\n", "the correct answer is answer5"),
      question("Answer format: true/false\n", "perhaps"),
  };
  const auto found = evaluate_choice(model, tokenizer, records);
  EXPECT_EQ(found.score.count, 4);
  EXPECT_EQ(found.score.unparsed, 3);
  EXPECT_EQ(found.score.correct, found.predictions[1].correct ? 1 : 0);
  EXPECT_FALSE(found.predictions[2].answer);
  EXPECT_FALSE(found.predictions[2].correct);
  EXPECT_TRUE(found.predictions[1].answer);
}

TEST(Choices, RefuseRecordsThatAskNothing) {
  const testing::ByteTokenizer tokenizer;
  auto model = testing::byte_llama("true");
  Record text;
  text.kind = RecordKind::kText;
  text.number = 2;
  EXPECT_THAT(
      refusal([&] {
        evaluate_choice(model, tokenizer, {questions()[0], text});
      }),
      HasSubstr("record 2: expected"));
  EXPECT_THAT(
      refusal([&] { evaluate_choice(model, tokenizer, {question("How many?", "4")}); }), HasSubstr("no record"));
  EXPECT_THAT(refusal([&] { evaluate_choice(model, tokenizer, questions(), 0); }), HasSubstr("batch_size"));
}

} // namespace
} // namespace rora
