#include <rora/text/chat_template.h>

#include "support/test_data.h"
#include "text/support.h"

#include <rora/checkpoint/file.h>
#include <rora/error.h>
#include <rora/text/prompt.h>
#include <rora/text/tokenizer.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <c10/util/Exception.h>

namespace rora {
namespace {

using nlohmann::ordered_json;
using rora::testing::read_test_json;
using rora::testing::TemporaryFolder;
using rora::testing::test_data;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using ::testing::ThrowsMessage;

const std::vector<ChatMessage> kChat = {
    {"system", " Be brief.\n"},
    {"user", " Hello! "},
    {"assistant", "Hi.\n"},
    {"user", "Bye"},
    {"assistant", "\u00a0Farewell\n"}};

const std::map<std::string, std::string> kTokens = {{"bos_token", "<s>"}, {"eos_token", "</s>"}};

std::string render(const char* name, const std::vector<ChatMessage>& messages, bool add_generation_prompt) {
  return ChatTemplate::named(name, kTokens)
      .render(messages, RenderOptions().add_generation_prompt(add_generation_prompt))
      .text;
}

TEST(ChatTemplate, IsFoundByName) {
  for (const std::string& name : ChatTemplate::names()) {
    EXPECT_EQ(ChatTemplate::named(name).origin(), name);
  }
  EXPECT_THAT(
      [] { ChatTemplate::named("alpaca"); },
      ThrowsMessage<c10::ValueError>(HasSubstr("'alpaca' is not one of llama2, llama3, chatml")));
}

TEST(ChatTemplate, RendersLlama2) {
  EXPECT_EQ(
      render("llama2", kChat, false),
      "<s>[INST] <<SYS>>\n Be brief.\n\n<</SYS>>\n\n Hello! [/INST] Hi. </s><s>[INST] Bye [/INST] Farewell </s>");
  EXPECT_EQ(render("llama2", {{"user", " Hello! "}}, true), "<s>[INST] Hello! [/INST]");
}

TEST(ChatTemplate, RendersLlama3) {
  EXPECT_EQ(
      render("llama3", {kChat[0], kChat[1], kChat[2]}, true),
      "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
      "<|start_header_id|>user<|end_header_id|>\n\nHello!<|eot_id|>"
      "<|start_header_id|>assistant<|end_header_id|>\n\nHi.<|eot_id|>"
      "<|start_header_id|>assistant<|end_header_id|>\n\n");
}

TEST(ChatTemplate, RendersChatML) {
  EXPECT_EQ(
      render("chatml", {kChat[0], kChat[1], kChat[2]}, true),
      "<|im_start|>system\n Be brief.\n<|im_end|>\n<|im_start|>user\n Hello! <|im_end|>\n"
      "<|im_start|>assistant\nHi.\n<|im_end|>\n<|im_start|>assistant\n");
}

TEST(ChatTemplate, RendersPrefixesUpToTheAssistant) {
  for (const std::string& name : ChatTemplate::names()) {
    const std::string whole = render(name.c_str(), kChat, false);
    for (const size_t answer : {size_t(2), size_t(4)}) {
      const std::string before = render(name.c_str(), {kChat.begin(), kChat.begin() + answer}, true);
      const std::string after = render(name.c_str(), {kChat.begin(), kChat.begin() + answer + 1}, false);
      EXPECT_THAT(whole, StartsWith(before));
      EXPECT_THAT(whole, StartsWith(after));
      EXPECT_LT(before.size(), after.size());
    }
  }
}

TEST(ChatTemplate, RefusesAnOrderThatLlama2Lacks) {
  const auto refuse = [](const std::vector<ChatMessage>& messages, bool add_generation_prompt) {
    EXPECT_THROW(render("llama2", messages, add_generation_prompt), c10::ValueError);
  };
  refuse({{"system", "a"}}, true);
  refuse({{"assistant", "a"}}, false);
  refuse({{"system", "a"}, {"assistant", "b"}}, false);
  refuse({{"user", "a"}, {"user", "b"}}, true);
  refuse({{"user", "a"}, {"system", "b"}}, true);
  refuse({{"user", "a"}, {"assistant", "b"}}, true);
  refuse({{"user", "a"}, {"tool", "b"}}, true);
  refuse({}, true);
}

/// A message of the fixtures: what is no text of the keys role and content goes into `fields`.
ChatMessage message_of(const ordered_json& json) {
  ChatMessage message{json["role"], ""};
  ordered_json fields;
  for (const auto& [key, value] : json.items()) {
    if (key == "content" && value.is_string()) {
      message.content = value;
    } else if (key != "role") {
      fields[key] = value;
    }
  }
  message.fields = fields.is_null() ? "" : fields.dump();
  return message;
}

TEST(ChatTemplate, RendersPublishedConstructsAsTransformersDoes) {
  const ordered_json fixture = read_test_json(test_data("text/chat_templates/chats.json"));
  std::tm day{};
  day.tm_year = 124;
  day.tm_mon = 6;
  day.tm_mday = 26;
  day.tm_hour = 12;
  day.tm_isdst = -1;
  for (const ordered_json& row : fixture["rendered"]) {
    const std::string name = row["template"];
    const ordered_json& chat = fixture["chats"][row["chat"].get<std::string>()];
    SCOPED_TRACE(name + ": " + row["chat"].get<std::string>());
    const auto file = test_data("text/chat_templates/" + name);
    const ChatTemplate chat_template(read_file(file), file, fixture["tokens"]);
    std::vector<ChatMessage> messages;
    for (const ordered_json& message : chat["messages"]) {
      messages.push_back(message_of(message));
    }
    const RenderOptions options = RenderOptions()
                                      .add_generation_prompt(row["add_generation_prompt"])
                                      .tools(chat.contains("tools") ? chat["tools"].dump() : "")
                                      .variables(chat.contains("variables") ? chat["variables"].dump() : "")
                                      .now(std::mktime(&day));
    if (row.contains("error")) {
      EXPECT_THROW(chat_template.render(messages, options), c10::ValueError) << row["error"];
      continue;
    }
    const RenderedChat rendered = chat_template.render(messages, options);
    EXPECT_EQ(rendered.text, row["text"].get<std::string>());
    std::vector<std::pair<size_t, size_t>> generated;
    for (const ordered_json& span : row.value("generated", ordered_json::array())) {
      generated.emplace_back(span[0], span[1]);
    }
    EXPECT_EQ(rendered.generated, generated);
  }
}

class ChatTemplateFolder : public ::testing::Test {
 protected:
  void write(const std::string& name, const std::string& text) const {
    std::filesystem::create_directories((folder / name).parent_path());
    write_file(folder / name, text);
  }
  std::string text(const RenderOptions& options = {}) const {
    return load_chat_template(folder.path())->render({{"user", "u"}}, options).text;
  }
  std::string refusal() const {
    try {
      load_chat_template(folder.path());
    } catch (const FormatError& error) {
      return error.what();
    }
    return "";
  }
  TemporaryFolder folder;
};

TEST_F(ChatTemplateFolder, HasNoneWhereThereIsNone) {
  EXPECT_FALSE(load_chat_template(folder.path()));
  write("tokenizer_config.json", R"({"chat_template": null})");
  EXPECT_FALSE(load_chat_template(folder.path()));
}

TEST_F(ChatTemplateFolder, HasItInTheTokenizersConfig) {
  write("tokenizer_config.json", R"({"chat_template": "{{ bos_token }}a", "bos_token": {"content": "<b>"}})");
  EXPECT_EQ(text(), "<b>a");
}

TEST_F(ChatTemplateFolder, HasAFileThatGoesBeforeTheConfig) {
  write("tokenizer_config.json", R"({"chat_template": "a", "bos_token": "<b>"})");
  write("chat_template.jinja", "{{ bos_token }}b\n");
  EXPECT_EQ(text(), "<b>b");
  write("additional_chat_templates/tool_use.jinja", "t");
  EXPECT_EQ(text(), "<b>b");
  EXPECT_EQ(text(RenderOptions().tools("[{}]")), "t");
  EXPECT_EQ(load_chat_template("tool_use", folder.path()).render({{"user", "u"}}).text, "t");
}

TEST_F(ChatTemplateFolder, JoinsTheTemplateForToolsWithTheOther) {
  const std::vector<std::pair<std::string, std::string>> pairs{
      {"d", "t"},
      {"\n  {% for m in messages %}\n{{ m.content }}\n  {% endfor %}  \n", "\n\n {{ tools|tojson }} \n\n"},
      {"{%- for m in messages -%} {{ m.content }} {%- endfor -%}", "  {%- if tools %} t {% endif -%}  "},
      {"  {% if true %}d{% endif %}\n\n", "\t{% set x = 1 %}  {{ x }}\n  "},
      {"", "\n"}};
  for (const auto& [plain, with_tools] : pairs) {
    write("chat_template.jinja", plain);
    EXPECT_EQ(load_chat_template(folder.path())->joined_source(), plain);
    write("additional_chat_templates/tool_use.jinja", with_tools);
    const ChatTemplate both = *load_chat_template(folder.path());
    const ChatTemplate joined(both.joined_source().value(), "joined");
    for (const auto& options : {RenderOptions(), RenderOptions().tools("[{\"name\": \"add\"}]")}) {
      EXPECT_EQ(joined.render({{"user", "u"}}, options).text, both.render({{"user", "u"}}, options).text) << plain;
    }
    std::filesystem::remove_all(folder / "additional_chat_templates");
  }
  write("chat_template.jinja", "{% generation %}d{% endgeneration %}");
  write("additional_chat_templates/tool_use.jinja", "t");
  EXPECT_EQ(load_chat_template(folder.path())->joined_source(), std::nullopt);
}

TEST_F(ChatTemplateFolder, HasAListWithNames) {
  write(
      "tokenizer_config.json",
      R"({"chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"},
                            {"name": "rag", "template": "r"}]})");
  EXPECT_EQ(text(), "d");
  EXPECT_EQ(text(RenderOptions().tools("[{}]")), "t");
  EXPECT_EQ(load_chat_template("rag", folder.path()).render({{"user", "u"}}).text, "r");
  EXPECT_EQ(load_chat_template("chatml", folder.path()).origin(), "chatml");
  EXPECT_THROW(load_chat_template("nope", folder.path()), FileError);
  write("tokenizer_config.json", R"({"chat_template": [{"name": "rag", "template": "r"}]})");
  EXPECT_THAT(refusal(), HasSubstr("none of them is named 'default' (found rag)"));
  write(
      "tokenizer_config.json",
      R"({"chat_template": [{"name": "rag", "template": "r"}, {"name": "rag", "template": "s"}]})");
  EXPECT_THAT(refusal(), HasSubstr("tokenizer_config.json: chat_template[1]: the name 'rag' is given twice"));
}

TEST_F(ChatTemplateFolder, NamesThePlaceOfWhatIsNotSupported) {
  write("chat_template.jinja", "a\n  {{ messages | xmlattr }}");
  EXPECT_THAT(refusal(), HasSubstr("chat_template.jinja: the chat template, line 2, column 17: the filter 'xmlattr'"));
  write("chat_template.jinja", "{% include 'x' %}");
  EXPECT_THAT(refusal(), HasSubstr("line 1, column 4: the tag 'include' is not supported here"));
}

TEST_F(ChatTemplateFolder, SaysWhatATemplateRefuses) {
  write("chat_template.jinja", "{% for m in messages %}\n{{ raise_exception('no ' + m.role) }}{% endfor %}");
  EXPECT_THAT([this] { text(); }, ThrowsMessage<c10::ValueError>(HasSubstr("refuses these messages: no user")));
  write("chat_template.jinja", "{{ messages[0].nope.more }}");
  EXPECT_THAT(
      [this] { text(); },
      ThrowsMessage<c10::ValueError>(HasSubstr("line 1, column 20: 'dict object' has no attribute")));
}

TEST_F(ChatTemplateFolder, TakesTheTokenizersTokensWhereItHasNoConfig) {
  const auto tokenizer = load_tokenizer(test_data("text/sentencepiece"));
  write("chat_template.jinja", "{{ bos_token }}{{ eos_token }}");
  EXPECT_EQ(load_chat_template(folder.path(), tokenizer.get())->render({{"user", "u"}}).text, "<s></s>");
}

TEST(ChatTemplate, KnowsAnAssistantsThoughtsByEachName) {
  const ChatTemplate chat_template("{{ messages[1].reasoning_content }}|{{ messages[1].thinking }}", "x");
  for (const char* const name : {"reasoning", "reasoning_content", "thinking"}) {
    const std::string fields = std::string("{\"") + name + "\": \"because\"}";
    EXPECT_EQ(chat_template.render({{"user", "u"}, {"assistant", "a", fields}}).text, "because|because") << name;
  }
}

TEST(ChatTemplate, HasAnotherForChatsWithTools) {
  const ChatTemplate plain("{% generation %}p{% endgeneration %}", "x");
  const ChatTemplate both = plain.with_tool_template(ChatTemplate("t", "y"));
  EXPECT_EQ(both.render({{"user", "u"}}, RenderOptions().tools("[{}]")).text, "t");
  EXPECT_TRUE(both.marks_generation());
  EXPECT_FALSE(both.marks_generation(/*with_tools=*/true));
}

TEST(ChatTemplate, IsStoppedWhereItRunsForEver) {
  const auto stopped = [](const std::string& source) {
    EXPECT_THAT(
        [&] {
          ChatTemplate(source, "x").render({{"user", "u"}});
        },
        ThrowsMessage<c10::ValueError>(HasSubstr("chat template x")))
        << source;
  };
  const std::string loop = "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}";
  stopped(loop);
  stopped("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}");
  stopped("{% set ns = namespace(x='a') %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}");
  stopped(
      "{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}");
  stopped("{{ 'a' * 10000000000 }}");
  stopped("{{ 'a' | indent(10000000000) }}{{ '%1000000000d' % 1 }}");
  stopped("{{ 2 ** 10000 }}");
  stopped("{{ [1] | tojson(indent=9000000000000000000) }}");
  stopped("{{ ([1] * 50000) | tojson(separators=('x' * 1000000, ':')) }}");
  stopped("{% set b = 'a' * 16000000 %}{% for i in range(100000) %}{% set c = b % () %}{% endfor %}");
  stopped("{% set b = 'a' * 16000000 %}{% for i in range(100000) %}{% set c = b is lower %}{% endfor %}");
  stopped("{% set b = 'a' * 16000000 %}{{ ([{}] * 1000) | map(attribute=b) | list | length }}");
  stopped("{{ ('a' * 1000000).strip('b' * 1000000 ~ 'a') }}");
  std::string deep;
  for (int i = 0; i < 100000; ++i) {
    deep += "(";
  }
  EXPECT_THROW(ChatTemplate("{{ " + deep, "x"), FormatError);
  std::string long_sum = "{{ 1";
  for (int i = 0; i < 10000; ++i) {
    long_sum += "+1";
  }
  EXPECT_THROW(ChatTemplate(long_sum + " }}", "x"), FormatError);
  std::string many; // in time that grows with its length alone
  for (int i = 0; i < 80000; ++i) {
    many += "{%set a=1%}";
  }
  EXPECT_EQ(ChatTemplate(many, "x").render({{"user", "u"}}).text, "");
}

TEST(ChatPrompt, HasTheSpecialTokensOfTheTemplateAlone) {
  const auto tokenizer = load_tokenizer(test_data("text/sentencepiece"));
  const auto ids = encode_chat_prompt(*tokenizer, ChatTemplate::named("llama2", kTokens), {kChat[0], kChat[1]});
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 1), 1);
  EXPECT_EQ(ids.front(), 1);
}

TEST(ChatPrompt, KnowsWhatEndsAMessage) {
  const auto tokenizer = load_tokenizer(test_data("text/sentencepiece"));
  EXPECT_EQ(end_of_message(*tokenizer, ChatTemplate::named("llama2", kTokens)), 2);
  EXPECT_EQ(end_of_message(*tokenizer, ChatTemplate("{{ messages[-1].content }}", "x")), std::nullopt);
  EXPECT_EQ(end_of_message(*tokenizer, ChatTemplate("{{ raise_exception('no') }}", "x")), std::nullopt);
}

} // namespace
} // namespace rora
