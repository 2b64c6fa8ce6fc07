#include <rora/text/chat_template.h>
#include <rora/text/tokenizer.h>

#include "support/test_data.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <c10/util/Exception.h>

namespace rora {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;
using ::testing::ThrowsMessage;

const std::vector<ChatMessage> kChat = {
    {"system", " Be brief.\n"},
    {"user", " Hello! "},
    {"assistant", "Hi.\n"},
    {"user", "Bye"},
    {"assistant", "\u00a0Farewell\n"}};

constexpr ChatTemplate kAll[] = {ChatTemplate::kLlama2, ChatTemplate::kLlama3, ChatTemplate::kChatML};

TEST(ChatTemplate, IsFoundByName) {
  EXPECT_EQ(chat_template_from_name("llama2"), ChatTemplate::kLlama2);
  EXPECT_EQ(chat_template_from_name("llama3"), ChatTemplate::kLlama3);
  EXPECT_EQ(chat_template_from_name("chatml"), ChatTemplate::kChatML);
  EXPECT_THAT(
      [] { chat_template_from_name("alpaca"); },
      ThrowsMessage<c10::ValueError>(HasSubstr("'alpaca' is not one of llama2, llama3, chatml")));
}

TEST(ChatTemplate, RendersLlama2) {
  EXPECT_EQ(
      render_chat(ChatTemplate::kLlama2, kChat, false),
      "[INST] <<SYS>>\n Be brief.\n\n<</SYS>>\n\n Hello! [/INST] Hi. </s><s>[INST] Bye [/INST] Farewell </s>");
  EXPECT_EQ(render_chat(ChatTemplate::kLlama2, {{"user", " Hello! "}}, true), "[INST] Hello! [/INST]");
}

TEST(ChatTemplate, RendersLlama3) {
  EXPECT_EQ(
      render_chat(ChatTemplate::kLlama3, {kChat[0], kChat[1], kChat[2]}, true),
      "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
      "<|start_header_id|>user<|end_header_id|>\n\nHello!<|eot_id|>"
      "<|start_header_id|>assistant<|end_header_id|>\n\nHi.<|eot_id|>"
      "<|start_header_id|>assistant<|end_header_id|>\n\n");
}

TEST(ChatTemplate, RendersChatML) {
  EXPECT_EQ(
      render_chat(ChatTemplate::kChatML, {kChat[0], kChat[1], kChat[2]}, true),
      "<|im_start|>system\n Be brief.\n<|im_end|>\n<|im_start|>user\n Hello! <|im_end|>\n"
      "<|im_start|>assistant\nHi.\n<|im_end|>\n<|im_start|>assistant\n");
}

TEST(ChatTemplate, RendersPrefixesUpToTheAssistant) {
  for (const ChatTemplate format : kAll) {
    const std::string whole = render_chat(format, kChat, false);
    for (const size_t answer : {size_t(2), size_t(4)}) {
      const std::string before = render_chat(format, {kChat.begin(), kChat.begin() + answer}, true);
      const std::string after = render_chat(format, {kChat.begin(), kChat.begin() + answer + 1}, false);
      EXPECT_THAT(whole, StartsWith(before));
      EXPECT_THAT(whole, StartsWith(after));
      EXPECT_LT(before.size(), after.size());
    }
  }
}

TEST(ChatTemplate, GivesOneBosWithATokenizerThatAddsIt) {
  const auto tokenizer = load_tokenizer(rora::testing::test_data("text/sentencepiece"));
  const std::vector<int64_t> ids = tokenizer->encode(render_chat(ChatTemplate::kLlama2, kChat, false));
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 1), 2); // one for each exchange
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 2), 2);
  EXPECT_EQ(ids[0], 1);
  EXPECT_NE(ids[1], 1);
}

TEST(ChatTemplate, RefusesUnknownRoles) {
  for (const ChatTemplate format : kAll) {
    EXPECT_THAT(
        [&] {
          render_chat(format, {{"user", "a"}, {"tool", "b"}}, false);
        },
        ThrowsMessage<c10::ValueError>(
            HasSubstr("message 1: expected the role system, user or assistant, found 'tool'")));
    EXPECT_THROW(render_chat(format, {}, true), c10::ValueError);
  }
}

TEST(ChatTemplate, RefusesAnOrderThatLlama2Lacks) {
  const auto refuse = [](const std::vector<ChatMessage>& messages, bool add_generation_prompt) {
    EXPECT_THROW(render_chat(ChatTemplate::kLlama2, messages, add_generation_prompt), c10::ValueError);
  };
  refuse({{"system", "a"}}, true);
  refuse({{"assistant", "a"}}, false);
  refuse({{"system", "a"}, {"assistant", "b"}}, false);
  refuse({{"user", "a"}, {"user", "b"}}, true);
  refuse({{"user", "a"}, {"system", "b"}}, true);
  refuse({{"user", "a"}, {"assistant", "b"}}, true);
}

} // namespace
} // namespace rora
