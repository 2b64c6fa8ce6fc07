#include "examples/support.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

namespace rora::testing {
namespace {

using ::testing::HasSubstr;

const char* const kTemplate =
    "{{ bos_token }}{% if messages[0].role != 'system' %}[be kind]{% endif %}{% for m in messages %}{{ m.role }}: "
    "{{ m.content }}{{ eos_token }}{% endfor %}{{ 'assistant:' if add_generation_prompt }}";

/// A model with a tokenizer, whose folder may get a chat template.
class ChatsTest : public ::testing::Test {
 protected:
  ChatsTest() {
    save_text_model(place.path("model_with_text"));
    place.write("alpaca.json", R"([{"instruction": "Add 2 and 3.", "output": "The answer is 5.", "answer": "5"}])");
    place.write(
        "chat.json",
        R"([{"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day."}]}])");
  }

  std::string model() const {
    return place.path("model_with_text");
  }
  void write_template(const std::string& text) const {
    place.write("model_with_text/chat_template.jinja", text);
  }
  Outcome run(const std::string& command, const std::vector<std::string>& more, const std::string& input = {}) const {
    std::vector<std::string> arguments{command, "--model", model()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_rora(arguments, input);
  }
  Outcome finetune(const std::string& data, const std::string& output, std::vector<std::string> more = {}) const {
    more.insert(
        more.end(),
        {"--data", place.path(data), "--output", place.path(output), "--max-steps", "1", "--rank", "2", "--threads",
         "1"});
    return run("finetune", more);
  }
  /// The text of the first batch of a dry run.
  std::string first_text(const std::string& data, const std::vector<std::string>& more = {}) const {
    const Outcome outcome = finetune(data, "dry", [&] {
      std::vector<std::string> with = more;
      with.emplace_back("--dry-run");
      return with;
    }());
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    const size_t at = outcome.out.rfind("  text      ");
    return at == std::string::npos ? outcome.out : outcome.out.substr(at + 12);
  }
  Json ids_of(const std::vector<std::string>& more) const {
    const Outcome outcome = run("generate", [&] {
      std::vector<std::string> with = more;
      with.insert(with.end(), {"--prompt", "Hello", "--max-new-tokens", "1", "--json"});
      return with;
    }());
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return Json::parse(outcome.out)["ids"];
  }

  Workplace place;
};

TEST_F(ChatsTest, AreWrittenByTheFoldersTemplate) {
  write_template(kTemplate);
  EXPECT_THAT(first_text("chat.json"), HasSubstr("[be kind]user: Hello</s> assistant: Good day.</s>"));
  EXPECT_THAT(first_text("alpaca.json"), HasSubstr("[be kind]user: Add 2 and 3.</s> assistant: The answer is 5.</s>"));
  EXPECT_THAT(first_text("alpaca.json", {"--prompt-format", "alpaca"}), HasSubstr("### Instruction:\\nAdd 2 and 3."));
  EXPECT_THAT(first_text("chat.json", {"--chat-template", "chatml"}), HasSubstr("<|im_start|>user\\nHello"));
  place.write("own.jinja", "{% for m in messages %}<{{ m.content }}>{% endfor %}");
  EXPECT_THAT(first_text("chat.json", {"--chat-template", place.path("own.jinja")}), HasSubstr("<Hello><Good day.>"));
}

TEST_F(ChatsTest, SayWhichTemplateIsUsed) {
  write_template(kTemplate);
  const Outcome outcome = finetune("chat.json", "run");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("prompts: as chats, by " + model() + "/chat_template.jinja"));
  const Json prompts = place.json("run/run.json")["prompts"];
  EXPECT_EQ(prompts["format"], "chat");
  EXPECT_EQ(prompts["chat_template"], model() + "/chat_template.jinja");
  EXPECT_EQ(place.read("run/chat_template.jinja"), kTemplate);
}

TEST_F(ChatsTest, SayWhereTheTemplateIsAGuess) {
  const Outcome outcome = finetune("chat.json", "run");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("the model's folder has no chat template: chats are written as llama2"));
  EXPECT_THAT(run("chat", {"--max-new-tokens", "1"}, "Hi\n").err, HasSubstr("chats are written as llama2"));
  expect_error(
      finetune("alpaca.json", "other", {"--prompt-format", "chat"}), 2, "has no chat template; --chat-template names");
}

TEST_F(ChatsTest, GenerateAsTheAdapterWasTrained) {
  write_template(kTemplate);
  ASSERT_EQ(finetune("chat.json", "chat_run").code, 0);
  ASSERT_EQ(finetune("alpaca.json", "text_run", {"--prompt-format", "alpaca"}).code, 0);
  const Json text = ids_of({});
  const Json chat = ids_of({"--chat"});
  ASSERT_NE(text, chat);
  const auto prompt_of = [](const Json& ids) { return Json(std::vector<int64_t>(ids.begin(), ids.end() - 1)); };
  EXPECT_EQ(prompt_of(ids_of({"--adapter", place.path("chat_run")})), prompt_of(chat));
  EXPECT_EQ(prompt_of(ids_of({"--adapter", place.path("text_run")})), prompt_of(text));
  write_template("{{ 'another' }}");
  EXPECT_EQ(prompt_of(ids_of({"--adapter", place.path("chat_run")})), prompt_of(chat));
  EXPECT_NE(prompt_of(ids_of({"--chat"})), prompt_of(chat));
}

TEST_F(ChatsTest, EvaluateAsTheAdapterWasTrained) {
  write_template(kTemplate);
  ASSERT_EQ(finetune("alpaca.json", "text_run", {"--prompt-format", "alpaca"}).code, 0);
  const auto loss = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments{"--data", place.path("alpaca.json"), "--task", "perplexity"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Outcome outcome = run("evaluate", arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return Json::parse(outcome.out)["loss"];
  };
  EXPECT_EQ(loss({}), loss({"--prompt-format", "chat"}));
  EXPECT_NE(loss({}), loss({"--prompt-format", "alpaca"}));
  const std::string adapter = place.path("text_run");
  EXPECT_EQ(loss({"--adapter", adapter}), loss({"--adapter", adapter, "--prompt-format", "alpaca"}));
  EXPECT_NE(loss({"--adapter", adapter}), loss({"--adapter", adapter, "--prompt-format", "chat"}));
}

TEST_F(ChatsTest, NameWhatATemplateRefuses) {
  write_template("{{ raise_exception('no ' ~ messages[0].role) }}");
  expect_error(finetune("chat.json", "run"), 1, "chat.json: record 1: field `messages`: the chat template");
  write_template("{{ messages | xmlattr }}");
  expect_error(finetune("chat.json", "run"), 1, "chat_template.jinja: the chat template, line 1, column 15");
  write_template(kTemplate);
  expect_error(finetune("chat.json", "run", {"--chat-template", "none.jinja"}), 1, "none.jinja: no file, and no");
  expect_error(finetune("chat.json", "run", {"--chat-date", "yesterday"}), 2, "--chat-date");
  expect_error(finetune("chat.json", "run", {"--chat-date", "2024-02-31"}), 2, "there is no day '2024-02-31'");
}

TEST_F(ChatsTest, TellTheDayThatIsAskedFor) {
  write_template("{{ strftime_now('%d %b %Y') }}{{ messages[0].content }}|{{ messages[1].content if messages[1:] }}");
  EXPECT_THAT(first_text("chat.json", {"--chat-date", "2024-07-26"}), HasSubstr("26 Jul 2024Hello"));
}

TEST_F(ChatsTest, ForgetTheOldestTurnsBeyondTheModelsPositions) {
  write_template(kTemplate);
  Json config = place.json("model_with_text/config.json");
  config["max_position_embeddings"] = 96;
  place.write("model_with_text/config.json", config.dump());
  std::string input;
  for (int i = 0; i < 8; ++i) {
    input += "Once upon a time there was a little dog.\n";
  }
  const Outcome outcome = run("chat", {"--max-new-tokens", "8", "--temperature", "0"}, input);
  EXPECT_EQ(outcome.code, 0);
  EXPECT_THAT(outcome.err, HasSubstr("the oldest turns are forgotten from here on"));
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  EXPECT_THAT(
      run("generate", {"--prompt", "Once upon a time", "--max-new-tokens", "120"}).err,
      HasSubstr("the model was made for 96 positions"));
}

TEST_F(ChatsTest, ShowTheirTokensAndLabels) {
  write_template(kTemplate);
  const Outcome outcome = run("tokenize", {"--data", place.path("chat.json")});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const Json line = Json::parse(outcome.out);
  EXPECT_EQ(line["input_ids"].size(), line["labels"].size());
  EXPECT_EQ(line["labels"].back(), line["input_ids"].back());
  EXPECT_EQ(line["labels"].front(), -100);
  place.write("ids.json", R"([{"input_ids": [1, 600]}])");
  expect_error(run("tokenize", {"--data", place.path("ids.json")}), 1, "ids.json: record 1: field `input_ids[1]`");
}

TEST_F(ChatsTest, HaveColumnsForTheKeysThatThereAre) {
  place.write("columns.json", R"([{"instruction": "Add.", "context": "2 and 3", "output": "5"}])");
  EXPECT_THAT(
      first_text("columns.json", {"--prompt-format", "alpaca", "--columns", "input=context"}), HasSubstr("2 and 3"));
  expect_error(
      finetune("columns.json", "run", {"--columns", "inptu=context"}), 2,
      "--columns: 'inptu' is no key of a record; those are instruction, input,");
}

TEST_F(ChatsTest, WithToolsAreWrittenAlikeByTheAdapterAndTheMergedModel) {
  place.write(
      "tools.json",
      R"([{"messages": [{"role": "user", "content": "2 and 3?"}, {"role": "assistant", "content": "5"}],
           "tools": [{"name": "add"}]}])");
  Json config = Json::object();
  config["chat_template"] = {
      {{"name", "default"}, {"template", kTemplate}},
      {{"name", "tool_use"}, {"template", "{% for m in messages %}TOOLS{{ m.content }}{% endfor %}"}}};
  place.write("model_with_text/tokenizer_config.json", config.dump());
  ASSERT_EQ(finetune("tools.json", "run", {"--lr", "0.1"}).code, 0);
  ASSERT_EQ(run("merge", {"--adapter", place.path("run"), "--output", place.path("merged")}).code, 0);
  const auto tokens = [&](const std::string& data, const std::string& folder) {
    return run_rora({"tokenize", "--data", place.path(data), "--model", place.path(folder)}).out;
  };
  for (const char* data : {"tools.json", "chat.json"}) {
    EXPECT_EQ(tokens(data, "merged"), tokens(data, "model_with_text")) << data;
  }
  EXPECT_NE(tokens("tools.json", "merged"), "");
}

TEST_F(ChatsTest, GoIntoAMergedModelWithTheirTemplate) {
  write_template(kTemplate);
  Json config = place.json("model_with_text/config.json");
  config["a_field_of_someones"] = {{"kept", true}};
  place.write("model_with_text/config.json", config.dump());
  ASSERT_EQ(finetune("chat.json", "run", {"--lr", "0.1"}).code, 0);
  write_template("another");
  const Outcome outcome =
      run("merge", {"--adapter", place.path("run"), "--output", place.path("merged"), "--dtype", "bfloat16"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("which is that rounding"));
  EXPECT_EQ(place.read("merged/chat_template.jinja"), kTemplate);
  const Json merged = place.json("merged/config.json");
  EXPECT_EQ(merged["a_field_of_someones"], config["a_field_of_someones"]);
  EXPECT_EQ(merged.value("dtype", merged.value("torch_dtype", "")), "bfloat16");
}

TEST_F(ChatsTest, EndTheTextsOfAMergedModelWhereTheirAnswersEnd) {
  write_template("{% for m in messages %}{{ m.role }}: {{ m.content }}{{ bos_token }}{% endfor %}");
  ASSERT_EQ(finetune("chat.json", "run", {"--lr", "0.1"}).code, 0);
  const Outcome outcome = run("merge", {"--adapter", place.path("run"), "--output", place.path("merged")});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("eos_token_id of generation_config.json has token 1 (<s>) too"));
  const Json ends = place.json("merged/generation_config.json")["eos_token_id"];
  EXPECT_EQ(ends.back(), 1);
  EXPECT_EQ(ends.size(), 2u);
}

TEST_F(ChatsTest, AreWhatAnAdapterOfChatsAloneIsGiven) {
  ASSERT_EQ(finetune("chat.json", "run").code, 0); // by a template that the tokenizer's tokens suggest
  const Json chat = ids_of({"--chat"});
  const Json own = ids_of({"--adapter", place.path("run")});
  EXPECT_EQ(std::vector<int64_t>(own.begin(), own.end() - 1), std::vector<int64_t>(chat.begin(), chat.end() - 1));
}

TEST_F(ChatsTest, ARunSaysWhatItsFlagsDoNotReach) {
  EXPECT_THAT(finetune("alpaca.json", "run", {"--warmup-steps", "7"}).out, HasSubstr("it ends before --lr is reached"));
  expect_error(
      run("generate", {"--prompt", "a", "--adapter", place.path("run"), "--adapter", place.path("run")}), 2,
      "--adapter");
}

TEST_F(ChatsTest, NameFilesThatAreThereInAnotherForm) {
  expect_error(
      run_rora({"generate", "--model", "someone/Their-Model-1B", "--prompt", "a"}), 1,
      "hf download someone/Their-Model-1B");
  expect_error(run("generate", {"--prompt", "a", "--adapter", "someone/adapter"}), 1, "hf download someone/adapter");
  ASSERT_EQ(finetune("alpaca.json", "run").code, 0);
  std::filesystem::rename(place.path("run/adapter_model.safetensors"), place.path("run/adapter_model.bin"));
  expect_error(
      run("generate", {"--prompt", "a", "--adapter", place.path("run")}), 1, "it holds adapter_model.bin, which");
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
  place.write("model_with_text/model.safetensors", pointer);
  expect_error(run("generate", {"--prompt", "a"}), 1, "model.safetensors: is a Git LFS pointer");
  std::filesystem::rename(
      place.path("model_with_text/model.safetensors"), place.path("model_with_text/pytorch_model.bin"));
  expect_error(run("generate", {"--prompt", "a"}), 1, "it holds pytorch_model.bin, which");
  place.write("model_with_text/tokenizer.model", pointer);
  expect_error(run("generate", {"--prompt", "a"}), 1, "tokenizer.model: is a Git LFS pointer");
}

} // namespace
} // namespace rora::testing
