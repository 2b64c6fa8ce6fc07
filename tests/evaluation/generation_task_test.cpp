#include <rora/evaluation/generation_task.h>
#include <rora/model/decoder.h>

#include "evaluation/byte_llama.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

namespace rora {
namespace {

using ::testing::HasSubstr;
using testing::question;
using testing::refusal;

const std::vector<std::string> kPrompts{"1 + 1 = ", "What is it?", "", "seven and eight", "x", "Two?", "0"};

/// The text that greedy search, or a beam, goes on with.
std::string continuation(CausalLM model, const Tokenizer& tokenizer, const std::string& prompt, int64_t beams) {
  const auto options = GenerationOptions().max_new_tokens(12).num_beams(beams);
  return tokenizer.decode(generate(model, {tokenizer.encode(prompt)}, options)[0], /*skip_special_tokens=*/true);
}

TEST(GenerationTasks, ReadAnswersOffWhatIsGenerated) {
  const testing::ByteTokenizer tokenizer;
  auto model = testing::byte_llama("1a2b ");
  for (const int64_t beams : {1, 3}) {
    std::vector<Record> records;
    AnswerScore expected;
    std::vector<std::string> texts;
    for (const std::string& prompt : kPrompts) {
      texts.push_back(continuation(model, tokenizer, prompt, beams));
      const auto number = extract_answer(AnswerRule::kLastNumber, texts.back());
      const bool right = number && records.size() % 2 == 0;
      records.push_back(question(prompt, "It is " + (right ? *number : std::string("3"))));
      expected.add(*gold_answer(records.back()), texts.back());
    }
    EXPECT_GT(expected.correct, 0);
    EXPECT_LT(expected.correct + expected.unparsed, expected.count);
    for (const int64_t batch_size : {1, 3, 100}) {
      const auto options = GenerationTaskOptions()
                               .batch_size(batch_size)
                               .generation(GenerationOptions().max_new_tokens(12).num_beams(beams));
      int64_t done = 0;
      const auto found = evaluate_generation(model, tokenizer, records, options, [&](int64_t count) { done = count; });
      EXPECT_EQ(found.score.count, expected.count);
      EXPECT_EQ(found.score.correct, expected.correct);
      EXPECT_EQ(found.score.unparsed, expected.unparsed);
      EXPECT_EQ(done, expected.count);
      for (size_t i = 0; i < records.size(); ++i) {
        EXPECT_EQ(found.predictions.at(i).text, texts[i]);
      }
    }
  }
}

TEST(GenerationTasks, StopAtTheTokenizersEndToken) {
  const testing::ByteTokenizer tokenizer;
  auto model = testing::byte_llama("ab");
  model->options.eos_token_id({});
  const auto options = GenerationOptions().max_new_tokens(9);
  int64_t stopped = 0;
  for (const std::string& prompt : kPrompts) {
    const auto text = [&](const GenerationOptions& generation) {
      return tokenizer.decode(generate(model, {tokenizer.encode(prompt)}, generation)[0], true);
    };
    const std::string expected = text(GenerationOptions(options).stop_token_ids({testing::ByteTokenizer::kEos}));
    stopped += expected != text(options) ? 1 : 0;
    const auto found =
        evaluate_generation(model, tokenizer, {question(prompt, "7")}, GenerationTaskOptions().generation(options));
    EXPECT_EQ(found.predictions[0].text, expected);
  }
  EXPECT_GT(stopped, 0);
}

TEST(GenerationTasks, PassOverIdsThatNoTokenHas) {
  const testing::ByteTokenizer tokenizer;
  auto model = testing::tiny_llama(testing::tiny_llama_options().vocab_size(300));
  at::NoGradGuard no_grad;
  model->lm_head->weight.slice(0, 0, 299).zero_();
  const at::Tensor last = model->lm_head->weight[299];
  const at::Tensor hidden = model->hidden_states({at::tensor({256, 'x'}, at::kLong).unsqueeze(0), {}, {}})[0][-1];
  last.copy_(hidden); // so that 299 comes first
  const auto found = evaluate_generation(
      model, tokenizer, {question("x", "7")},
      GenerationTaskOptions().generation(GenerationOptions().max_new_tokens(1)));
  EXPECT_EQ(found.predictions[0].text, "");
  EXPECT_EQ(found.score.unparsed, 1);
}

TEST(GenerationTasks, RefuseRecordsThatAskNothing) {
  const testing::ByteTokenizer tokenizer;
  const testing::ByteTokenizer without_bos(/*adds_bos=*/false);
  auto model = testing::byte_llama("1");
  Record chat = question("", "");
  chat.kind = RecordKind::kChat;
  EXPECT_THAT(refusal([&] { evaluate_generation(model, tokenizer, {chat}); }), HasSubstr("record 1: expected"));
  EXPECT_THAT(
      refusal([&] { evaluate_generation(model, tokenizer, {question("How many?", "none")}); }),
      HasSubstr("record 1: expected an answer to compare with"));
  EXPECT_THAT(
      refusal([&] { evaluate_generation(model, without_bos, {question("", "7")}); }),
      HasSubstr("record 1: expected a prompt"));
  EXPECT_THAT(
      refusal(
          [&] { evaluate_generation(model, tokenizer, {question("a", "7")}, GenerationTaskOptions().batch_size(0)); }),
      HasSubstr("batch_size"));
}

} // namespace
} // namespace rora
