#include <rora/data/dataset.h>
#include <rora/error.h>

#include "data/byte_tokenizer.h"
#include "data/data_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>
#include <string>
#include <vector>

namespace rora {
namespace {

using testing::ByteTokenizer;
using testing::DataFile;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Ids = std::vector<int64_t>;

Dataset load(std::string_view content, const Tokenizer* tokenizer, const DatasetOptions& options = {}) {
  return load_dataset({DataFile(content).path()}, tokenizer, options);
}

std::string refusal(std::string_view content, const Tokenizer* tokenizer, const DatasetOptions& options = {}) {
  const DataFile file(content);
  return file.message_of<FormatError>([&] { load_dataset({file.path()}, tokenizer, options); });
}

/// The text of an example with its labelled runs in brackets.
std::string marked(const Example& example, const Tokenizer& tokenizer) {
  std::string text;
  bool open = false;
  for (size_t i = 0; i < example.input_ids.size(); ++i) {
    const bool labelled = example.labels[i] != kIgnoreIndex;
    if (labelled) {
      EXPECT_EQ(example.labels[i], example.input_ids[i]) << "at " << i;
    }
    text += labelled == open ? "" : labelled ? "[" : "]";
    open = labelled;
    text += tokenizer.decode(example.input_ids[i]);
  }
  return text + (open ? "]" : "");
}

std::string marked_only(std::string_view content, const Tokenizer& tokenizer, const DatasetOptions& options = {}) {
  const Dataset dataset = load(content, &tokenizer, options);
  EXPECT_EQ(dataset.size(), 1);
  return marked(dataset.examples.at(0), tokenizer);
}

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
      "cut "
      "to 3 tokens");
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

const char* const kChat = R"({"messages": [
  {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"},
  {"role": "user", "content": "Bye"}, {"role": "assistant", "content": "So long"}]})";

std::string chat() {
  return "[" + std::string(kChat) + "]";
}

TEST(ChatDataset, LabelsTheAssistantToItsEndTokenInChatMl) {
  const ByteTokenizer tokenizer(false, false, {"<|im_start|>", "<|im_end|>"});
  const std::string expected =
      "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n[Hello<|im_end|>]\n"
      "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n[So long<|im_end|>]\n";
  EXPECT_EQ(marked_only(chat(), tokenizer), expected);
  DatasetOptions options;
  options.train_on_inputs(true);
  const std::string all = marked_only(chat(), tokenizer, options);
  EXPECT_EQ(std::count(all.begin(), all.end(), '['), 1);
  EXPECT_EQ(all.size(), expected.size() - 2);
}

TEST(ChatDataset, LabelsTheAssistantToItsEndTokenInLlama3) {
  const ByteTokenizer tokenizer(true, false, {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"});
  EXPECT_EQ(
      marked_only(chat(), tokenizer),
      "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
      "<|start_header_id|>assistant<|end_header_id|>\n\n[Hello<|eot_id|>]"
      "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
      "<|start_header_id|>assistant<|end_header_id|>\n\n[So long<|eot_id|>]");
}

TEST(ChatDataset, LabelsTheAssistantToItsEndTokenInLlama2) {
  const ByteTokenizer tokenizer;
  EXPECT_EQ(marked_only(chat(), tokenizer), "<s>[INST] Hi [/INST][ Hello </s>]<s>[INST] Bye [/INST][ So long </s>]");
}

TEST(ChatDataset, BeginsWithOneBosWhereTheTemplateHasOne) {
  const ByteTokenizer adds_none(false);
  EXPECT_EQ(
      load(chat(), &adds_none).examples[0].input_ids,
      load(chat(), std::make_unique<ByteTokenizer>().get()).examples[0].input_ids);
}

TEST(ChatDataset, TakesTheTemplateThatIsAskedFor) {
  const ByteTokenizer tokenizer(false, false, {"<|im_start|>", "<|im_end|>"});
  DatasetOptions options;
  options.chat_template(ChatTemplate::named("llama2", special_tokens_of(tokenizer)));
  EXPECT_THAT(marked_only(chat(), tokenizer, options), HasSubstr("[INST] Hi [/INST]"));
}

TEST(ChatDataset, TokenisesTheWholeText) {
  // "\n\n" is one token, also where the one line's end ends a prompt and the other begins the answer.
  const ByteTokenizer tokenizer(false, false, {"<|im_start|>", "<|im_end|>"});
  const std::string text = marked_only(
      R"([{"messages": [{"role": "user", "content": "a\n\nb"}, {"role": "assistant", "content": "\nc"}]}])", tokenizer);
  EXPECT_EQ(text, "<|im_start|>user\na\n\nb<|im_end|>\n<|im_start|>assistant[\n\nc<|im_end|>]\n");
}

/// A space in front of every text, as sentencepiece's dummy prefix.
class PrefixingTokenizer : public ByteTokenizer {
 public:
  std::vector<int64_t> encode(std::string_view text, bool add_special_tokens = true) const override {
    return ByteTokenizer::encode(text.empty() ? "" : " " + std::string(text), add_special_tokens);
  }
};

TEST(ChatDataset, GivesOnlyTheFirstPieceADummyPrefix) {
  EXPECT_EQ(
      marked_only(chat(), PrefixingTokenizer()),
      " <s>[INST] Hi [/INST][ Hello </s>]<s>[INST] Bye [/INST][ So long </s>]");
}

TEST(Dataset, GivesOnlyThePromptADummyPrefix) {
  EXPECT_EQ(marked_only(R"([{"prompt": "p", "completion": " c"}])", PrefixingTokenizer()), "<s> p[ c</s>]");
}

TEST(ChatDataset, LeavesMessagesAfterTheLastAnswerWithoutLabels) {
  const ByteTokenizer tokenizer(false, false, {"<|im_start|>", "<|im_end|>"});
  EXPECT_EQ(
      marked_only(
          R"([{"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "u"},
                            {"role": "assistant", "content": "a"}, {"role": "user", "content": "v"}]}])",
          tokenizer),
      "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\n[a<|im_end|>]\n"
      "<|im_start|>user\nv<|im_end|>\n");
}

TEST(ChatDataset, TakesAnAssistantWhoSpeaksFirstForContext) {
  const ByteTokenizer tokenizer(false, false, {"<|im_start|>", "<|im_end|>"});
  EXPECT_EQ(
      marked_only(
          R"([{"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "u"},
                            {"role": "assistant", "content": "b"}]}])",
          tokenizer),
      "<|im_start|>assistant\na<|im_end|>\n<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\n[b<|im_end|>]\n");
}

TEST(ChatDataset, RefusesWhatTheTemplateDoesNotAllow) {
  const ByteTokenizer tokenizer;
  EXPECT_THAT(
      refusal(R"({"messages": [{"role": "user", "content": "u"}, {"role": "user", "content": "v"}]})", &tokenizer),
      HasSubstr("record 1 (line 1): field `messages`: the chat template llama2 refuses these messages: "));
}

TEST(ChatTemplateChoice, FollowsTheTokenizersTokens) {
  EXPECT_EQ(default_chat_template(ByteTokenizer(true, false, {"<|im_start|>"})).origin(), "chatml");
  EXPECT_EQ(default_chat_template(ByteTokenizer(true, false, {"<|start_header_id|>"})).origin(), "llama3");
  EXPECT_EQ(default_chat_template(ByteTokenizer()).origin(), "llama2");
}

DatasetOptions with_template(const std::string& source) {
  return DatasetOptions().chat_template(ChatTemplate(source, "x.jinja", {{"eos_token", "</s>"}}));
}

TEST(ChatDataset, LabelsWhatGenerationBlocksWrite) {
  const ByteTokenizer tokenizer;
  const std::string source =
      "{% for m in messages %}{{ m.role[0] }}:{% if m.role == 'assistant' %}{% generation %}{{ m.content }}</s>"
      "{% endgeneration %}{% else %}{{ m.content }}\n{% endif %}{% endfor %}";
  EXPECT_EQ(marked_only(chat(), tokenizer, with_template(source)), "u:Hi\na:[Hello</s>]u:Bye\na:[So long</s>]");
}

TEST(ChatDataset, RefusesATemplateThatRewritesWhatStandsBeforeAnAnswer) {
  const ByteTokenizer tokenizer;
  const std::string source =
      "{% for m in messages %}{{ '(last)' if loop.last }}{{ m.role }}: {{ m.content }}\n{% endfor %}";
  EXPECT_THAT(
      refusal(chat(), &tokenizer, with_template(source)),
      HasSubstr("the chat template x.jinja writes what stands before it otherwise once it follows"));
}

TEST(ChatDataset, LabelsAllOfAChatWhereverItsAnswersAre) {
  const ByteTokenizer tokenizer;
  const std::string source = "{% for m in messages %}{{ '(last)' if loop.last }}{{ m.content }}\n{% endfor %}";
  EXPECT_EQ(
      marked_only(chat(), tokenizer, with_template(source).train_on_inputs(true)), "[Hi\nHello\nBye\n(last)So long\n]");
}

TEST(ChatDataset, RefusesAnAnswerOfWhichTheTemplateWritesNothing) {
  const ByteTokenizer tokenizer;
  const std::string source =
      "{% for m in messages %}{{ m.role[0] }}:{{ m.content if m.content is string }}</s>{% endfor %}"
      "{{ 'a:' if add_generation_prompt }}";
  EXPECT_THAT(
      refusal(
          R"([{"messages": [{"role": "user", "content": "u"},
                            {"role": "assistant", "content": null, "tool_calls": [{"name": "f"}]}]}])",
          &tokenizer, with_template(source)),
      HasSubstr("message 1: the chat template x.jinja writes nothing of this answer but its end"));
}

TEST(ChatDataset, CountsChatsOfWhichTheTemplateLeavesAMessageOut) {
  const ByteTokenizer tokenizer;
  const std::string source =
      "{% for m in messages %}{% if m.role in ['user', 'assistant'] %}{{ m.content }}</s>{% endif %}{% endfor %}";
  const Dataset dataset = load(
      R"([{"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]},
          {"messages": [{"role": "developer", "content": " rules\nand more"}, {"role": "user", "content": "u"},
                        {"role": "assistant", "content": "a"}]}])",
      &tokenizer, with_template(source));
  EXPECT_EQ(dataset.unwritten, 1);
  EXPECT_THAT(dataset.first_unwritten, HasSubstr("record 2, message 0 of role 'developer'"));
}

constexpr const char* kPlain =
    "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}</s>{% endfor %}{{ 'a:' if add_generation_prompt }}";

TEST(ChatDataset, WritesPromptsAsChatsWhereThereIsATemplate) {
  const ByteTokenizer tokenizer;
  const char* const alpaca = R"([{"instruction": "Add.", "input": "1 2", "output": "3", "system": "Be kind."}])";
  const char* const prompt = R"([{"prompt": "p", "completion": "c"}])";
  EXPECT_EQ(marked_only(alpaca, tokenizer, with_template(kPlain)), "s:Be kind.</s>u:Add.\n\n1 2</s>a:[3</s>]");
  EXPECT_EQ(marked_only(prompt, tokenizer, with_template(kPlain)), "u:p</s>a:[c</s>]");
  EXPECT_EQ(
      marked_only(alpaca, tokenizer, with_template(kPlain).prompt_format(PromptFormat::kAlpaca)),
      "<s>Be kind.\n\n### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n[3</s>]");
  EXPECT_EQ(marked_only(alpaca, tokenizer).substr(0, 11), "<s>Be kind.");
  EXPECT_EQ(
      marked_only(prompt, tokenizer, DatasetOptions().prompt_format(PromptFormat::kChat)),
      "<s>[INST] p [/INST][ c </s>]"); // by the template that the tokenizer points to
}

TEST(ChatDataset, LabelsTheCompletionAloneOfAPromptOfMessages) {
  const ByteTokenizer tokenizer;
  const char* const record = R"([{
    "prompt": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"},
               {"role": "user", "content": "v"}],
    "completion": [{"role": "assistant", "content": "b"}]}])";
  EXPECT_EQ(marked_only(record, tokenizer, with_template(kPlain)), "u:u</s>a:a</s>u:v</s>a:[b</s>]");
  const std::string marking =
      "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
      "{% else %}{{ m.content }}{% endif %}{% endfor %}";
  EXPECT_EQ(marked_only(record, tokenizer, with_template(marking)), "uav[b]");
}

TEST(ChatDataset, HandsToolsAndTheirCallsToTheTemplate) {
  const ByteTokenizer tokenizer;
  const std::string source =
      "{{ tools[0].name }}|{% for m in messages %}{{ m.role[0] }}:{{ m.content if m.content is defined else "
      "m.tool_calls | tojson }}|{% endfor %}{{ 'a:' if add_generation_prompt }}";
  EXPECT_EQ(
      marked_only(
          R"([{"tools": [{"name": "add"}], "messages": [{"role": "user", "content": "u"},
               {"role": "assistant", "content": null, "tool_calls": [{"z": 1, "b": 2}]},
               {"role": "tool", "content": "3"}, {"role": "assistant", "content": "x"}]}])",
          tokenizer, with_template(source)),
      "add|u:u|a:[[{\"z\": 1, \"b\": 2}]|]t:3|a:[x|]");
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
