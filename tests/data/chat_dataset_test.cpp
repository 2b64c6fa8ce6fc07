// Chats as examples: what a template writes of them, and which of it has labels.
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

TEST(ChatDataset, GivesOnlyTheFirstPieceADummyPrefix) {
  EXPECT_EQ(
      marked_only(chat(), PrefixingTokenizer()),
      " <s>[INST] Hi [/INST][ Hello </s>]<s>[INST] Bye [/INST][ So long </s>]");
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

} // namespace
} // namespace rora
