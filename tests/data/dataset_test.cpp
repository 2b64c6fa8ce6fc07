#include <rora/data/dataset.h>

#include "data/dataset_support.h"

#include <gmock/gmock.h>

#include <string>
#include <vector>

namespace rora {
namespace {

using testing::ByteTokenizer;
using testing::DataFile;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::load;
using testing::marked;
using testing::marked_only;
using testing::PrefixingTokenizer;
using testing::refusal;
using Ids = std::vector<int64_t>;

TEST(Dataset, LabelsTheAnswerAndEos) {
  const ByteTokenizer tokenizer;
  EXPECT_EQ(
      marked_only(R"([{"instruction": "Add.", "input": "", "output": "\n3"}])", tokenizer),
      "<s>### Instruction:\nAdd.\n\n### Response:\n[\n3</s>]");
  EXPECT_EQ(marked_only(R"([{"prompt": "p", "completion": "c"}])", tokenizer), "<s>p[c</s>]");
  EXPECT_EQ(marked_only(R"([{"text": "t\n\n"}])", tokenizer), "[<s>t\n\n</s>]");
}

TEST(Dataset, LeavesThePromptTheTokensItHasInGeneration) {
  const Dataset dataset = load(R"([{"prompt": "p\n", "completion": "\nc"}])", std::make_unique<ByteTokenizer>().get());
  EXPECT_THAT(
      dataset.examples[0].input_ids, ElementsAre(ByteTokenizer::kBos, 'p', '\n', '\n', 'c', ByteTokenizer::kEos));
  EXPECT_THAT(dataset.examples[0].labels, ElementsAre(-100, -100, -100, '\n', 'c', ByteTokenizer::kEos));
}

TEST(Dataset, TrainOnInputsLabelsAll) {
  const ByteTokenizer tokenizer;
  DatasetOptions options;
  options.train_on_inputs(true);
  EXPECT_EQ(marked_only(R"([{"prompt": "p", "completion": "c"}])", tokenizer, options), "[<s>pc</s>]");
  EXPECT_EQ(marked_only(R"([{"prompt": "p", "completion": ""}])", tokenizer, options), "[<s>p</s>]");
  const Dataset given = load(R"([{"input_ids": [1, 2, 3], "labels": [-100, -100, 3]}])", &tokenizer, options);
  EXPECT_THAT(given.examples[0].labels, ElementsAre(-100, -100, 3));
}

TEST(Dataset, WritesNoSecondBosOrEos) {
  const ByteTokenizer adds_none(false);
  EXPECT_EQ(marked_only(R"([{"prompt": "p", "completion": "c"}])", adds_none), "p[c</s>]");
  const ByteTokenizer adds_both(true, true);
  EXPECT_EQ(marked_only(R"([{"prompt": "p", "completion": "c"}])", adds_both), "<s>p[c</s>]");
  EXPECT_EQ(marked_only(R"([{"text": "t"}])", adds_both), "[<s>t</s>]");
  EXPECT_EQ(marked_only(R"([{"prompt": "p", "completion": "c</s>"}])", adds_none), "p[c</s>]");
}

TEST(Dataset, AddsNoEosWhereTheTokenizerHasNone) {
  ByteTokenizer tokenizer;
  tokenizer.eos_id.reset();
  EXPECT_EQ(marked_only(R"([{"prompt": "p", "completion": "c"}])", tokenizer), "<s>p[c]");
}

TEST(Dataset, CutsAtTheEndAndCounts) {
  const ByteTokenizer tokenizer;
  DatasetOptions options;
  options.max_length(4);
  const Dataset dataset = load(
      R"([{"prompt": "p", "completion": "a"},     {"prompt": "p", "completion": "ab"},
          {"prompt": "p", "completion": "abc"},   {"prompt": "pqrs", "completion": "a"},
          {"input_ids": [1, 2, 3, 4, 5]},
          {"input_ids": [1, 2, 3, 4, 5], "labels": [-100, -100, -100, -100, 5]}])",
      &tokenizer, options);
  ASSERT_EQ(dataset.size(), 4);
  EXPECT_EQ(marked(dataset.examples[0], tokenizer), "<s>p[a</s>]");
  EXPECT_EQ(marked(dataset.examples[1], tokenizer), "<s>p[ab]"); // no room for EOS, and nothing cut
  EXPECT_EQ(marked(dataset.examples[2], tokenizer), "<s>p[ab]");
  EXPECT_THAT(dataset.examples[3].input_ids, ElementsAre(1, 2, 3, 4));
  EXPECT_EQ(dataset.truncated, 2);
  EXPECT_EQ(dataset.unanswered, 2);
  EXPECT_EQ(dataset.skipped, 0);
}

TEST(Dataset, SkipsAndCountsWhatHasNothingToLearn) {
  const ByteTokenizer tokenizer(false);
  const Dataset dataset = load(
      R"([{"text": ""}, {"prompt": "p", "completion": ""}, {"prompt": "", "completion": ""}, {"input_ids": []},
          {"input_ids": [1]}, {"input_ids": [1, 2], "labels": [1, -100]}, {"messages": []},
          {"messages": [{"role": "user", "content": "u"}]},
          {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": ""}]},
          {"prompt": "", "completion": "ok"}])",
      &tokenizer);
  ASSERT_EQ(dataset.size(), 1);
  EXPECT_EQ(marked(dataset.examples[0], tokenizer), "[ok</s>]");
  EXPECT_EQ(dataset.skipped, 9);
  EXPECT_EQ(dataset.unanswered, 0);
  EXPECT_EQ(dataset.truncated, 0);
}

TEST(Dataset, RefusesAFileThatGivesNoExample) {
  const ByteTokenizer tokenizer;
  DatasetOptions options;
  options.max_length(3);
  EXPECT_EQ(
      refusal(R"([{"text": ""}, {"prompt": "pqrs", "completion": "c"}, {"input_ids": []}])", &tokenizer, options),
      "expected an example with a label, found 3 records, 2 of them empty or without a label and 1 without one once "
      "cut to 3 tokens; the first is record 1");
}

TEST(Dataset, ReadsFilesInTheOrderGiven) {
  const DataFile a(R"([{"input_ids": [1, 2]}, {"input_ids": [3, 4]}])");
  const DataFile b("{\"input_ids\": [5, 6]}\n{\"input_ids\": []}\n", "data.jsonl");
  const Dataset dataset = load_dataset({b.path(), a.path()}, nullptr);
  ASSERT_EQ(dataset.size(), 3);
  EXPECT_THAT(dataset.examples[0].input_ids, ElementsAre(5, 6));
  EXPECT_THAT(dataset.examples[1].input_ids, ElementsAre(1, 2));
  EXPECT_THAT(dataset.examples[2].labels, ElementsAre(3, 4));
  EXPECT_EQ(dataset.skipped, 1);
}

TEST(Dataset, RefusesTextWithoutATokenizer) {
  EXPECT_EQ(
      refusal("{\"input_ids\": [1, 2]}\n{\"text\": \"t\"}", nullptr),
      "record 2 (line 2): expected `input_ids`, as no tokenizer is given, found text");
}

TEST(Dataset, RefusesIdsOutsideTheVocabulary) {
  const ByteTokenizer tokenizer; // 259 ids
  EXPECT_EQ(
      refusal(R"([{"input_ids": [1, 258]}, {"input_ids": [1, 259]}])", &tokenizer),
      "record 2: field `input_ids[1]`: expected an id below the vocabulary's size of 259, found 259");
  EXPECT_EQ(
      refusal(R"([{"input_ids": [1, 2], "labels": [-100, 300]}])", &tokenizer),
      "record 1: field `labels[1]`: expected an id below the vocabulary's size of 259, found 300");
  DatasetOptions options;
  options.vocab_size(257); // a model that is smaller than its tokenizer
  EXPECT_EQ(
      refusal(R"([{"text": "a</s>"}])", &tokenizer, options),
      "record 1: token 2: expected an id below the vocabulary's size of 257, found 257");
  EXPECT_EQ(load(R"([{"input_ids": [1, 99999]}])", nullptr).size(), 1);
  options.vocab_size(1000);
  EXPECT_EQ(load(R"([{"input_ids": [1, 999]}])", &tokenizer, options).size(), 1);
}

TEST(Dataset, RefusesAnEosOutsideTheModelsVocabulary) {
  const ByteTokenizer tokenizer;
  DatasetOptions options;
  options.vocab_size(257);
  EXPECT_EQ(
      refusal(R"([{"prompt": "p", "completion": "c"}])", &tokenizer, options),
      "record 1: token 3: expected an id below the vocabulary's size of 257, found 257");
}

TEST(Dataset, TakesTheExamplesOfAFileAsOftenAsItsWeightSays) {
  const DataFile file(
      "{\"input_ids\": [1, 1]}\n{\"input_ids\": [1, 2]}\n{\"input_ids\": [1, 3]}\n{\"input_ids\": [1, 4]}\n");
  const auto last_ids = [&](double weight) {
    auto files = read_record_files({file.path()});
    files[0].weight = weight;
    Ids ids;
    for (const Example& example : encode_records(files, [] { return nullptr; }).examples) {
      ids.push_back(example.input_ids.back());
    }
    return ids;
  };
  EXPECT_THAT(last_ids(1), ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(last_ids(2), ElementsAre(1, 1, 2, 2, 3, 3, 4, 4));
  EXPECT_THAT(last_ids(0.5), ElementsAre(2, 4));
  EXPECT_THAT(last_ids(1.5), ElementsAre(1, 2, 2, 3, 4, 4));
  EXPECT_EQ(last_ids(0.01).size(), 1u);
  EXPECT_THROW(last_ids(0), c10::ValueError);
}

TEST(Dataset, RefusesNegativeOptions) {
  DatasetOptions length;
  length.max_length(-1);
  EXPECT_THROW(load(R"([{"input_ids": [1, 2]}])", nullptr, length), c10::ValueError);
  DatasetOptions vocabulary;
  vocabulary.vocab_size(-1);
  EXPECT_THROW(load(R"([{"input_ids": [1, 2]}])", nullptr, vocabulary), c10::ValueError);
}

TEST(Dataset, GivesOnlyThePromptADummyPrefix) {
  EXPECT_EQ(marked_only(R"([{"prompt": "p", "completion": " c"}])", PrefixingTokenizer()), "<s> p[ c</s>]");
}

TEST(Dataset, AsksForATokenizerOnceAndOnlyForText) {
  const ByteTokenizer tokenizer;
  int asked = 0;
  const auto ask = [&]() -> const Tokenizer* {
    ++asked;
    return &tokenizer;
  };
  const DataFile tokenised(R"([{"input_ids": [1, 2]}])");
  EXPECT_EQ(load_dataset({tokenised.path()}, ask).size(), 1);
  EXPECT_EQ(asked, 0);
  const DataFile text(R"([{"input_ids": [1, 2]}, {"text": "ab"}, {"text": "cd"}])");
  EXPECT_EQ(load_dataset({text.path()}, ask).size(), 3);
  EXPECT_EQ(asked, 1);
}

} // namespace
} // namespace rora
