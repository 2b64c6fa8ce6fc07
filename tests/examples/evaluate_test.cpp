// rora evaluate, generate and chat, run as their users run them.

#include "examples/support.h"

#include <rora/model/decoder.h>
#include <rora/evaluation/choice.h>
#include <rora/evaluation/generation_task.h>
#include <rora/evaluation/perplexity.h>
#include <rora/model/pretrained.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace rora {
namespace {

using ::testing::ElementsAre;
using testing::expect_error;
using testing::Json;
using testing::Outcome;
using testing::run_rora;

constexpr const char* kQuestions[] = {"Is it so?", "Why not", "Say it again, and again.", ""};

/// A model with a tokenizer, and questions.
class EvaluateTest : public ::testing::Test {
 protected:
  EvaluateTest() {
    testing::save_text_model(folder_ / "model");
    std::string lines;
    for (const std::string question : kQuestions) {
      const Json record{
          {"instruction", question + "\nAnswer format: true/false"},
          {"input", ""},
          {"output", "the correct answer is true"},
          {"answer", "true"}};
      lines += record.dump() + "\n";
    }
    write("questions.jsonl", lines);
  }

  std::string path(const std::string& name) const {
    return (folder_ / name).string();
  }

  void write(const std::string& name, const std::string& content) const {
    std::ofstream(folder_ / name, std::ios::binary) << content;
  }

  /// Runs `rora COMMAND --model … MORE`.
  Outcome run(const std::string& command, const std::vector<std::string>& more, const std::string& input = {}) const {
    std::vector<std::string> arguments{command, "--model", path("model")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_rora(arguments, input);
  }

  /// The one JSON object on stdout.
  Json json(const std::string& command, const std::vector<std::string>& more) const {
    const Outcome outcome = run(command, more);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(outcome.err, "");
    return Json::parse(outcome.out, nullptr, /*allow_exceptions=*/false);
  }

  std::vector<std::string> keys(const Json& object) const {
    std::vector<std::string> names;
    for (const auto& [name, value] : object.items()) {
      names.push_back(name);
    }
    return names;
  }

  CausalLM model() const {
    return load_model(folder_ / "model");
  }
  std::unique_ptr<Tokenizer> tokenizer() const {
    return load_tokenizer(folder_ / "model");
  }
  std::vector<Record> records() const {
    return read_records(folder_ / "questions.jsonl");
  }

  testing::TemporaryFolder folder_;
};

TEST_F(EvaluateTest, PrintsPerplexity) {
  const Json found = json("evaluate", {"--data", path("questions.jsonl"), "--task", "perplexity"});
  EXPECT_THAT(keys(found), ElementsAre("loss", "perplexity", "tokens"));
  auto own = model();
  const auto expected =
      evaluate_perplexity(own, load_dataset({folder_ / "questions.jsonl"}, tokenizer().get()).examples);
  EXPECT_NEAR(found["loss"], expected.loss, 1e-6 * expected.loss);
  EXPECT_NEAR(found["perplexity"], expected.perplexity(), 1e-5 * expected.perplexity());
  EXPECT_EQ(found["tokens"], expected.tokens);
}

TEST_F(EvaluateTest, NeedsNoTokenizerForTokenisedRecords) {
  std::filesystem::remove(folder_ / "model" / "tokenizer.model");
  write("ids.jsonl", "{\"input_ids\": [1, 2, 3]}\n{\"input_ids\": [4, 5, 6, 7]}\n");
  EXPECT_EQ(json("evaluate", {"--data", path("ids.jsonl"), "--task", "perplexity"})["tokens"], 5);
  EXPECT_EQ(json("evaluate", {"--data", path("ids.jsonl"), "--task", "perplexity", "--limit", "1"})["tokens"], 2);
}

TEST_F(EvaluateTest, PrintsTheAccuracyOfChoices) {
  const Json found = json("evaluate", {"--data", path("questions.jsonl"), "--task", "choice", "--batch-size", "3"});
  EXPECT_THAT(keys(found), ElementsAre("accuracy", "stderr", "unparsed", "count"));
  auto own = model();
  const AnswerScore expected = evaluate_choice(own, *tokenizer(), records()).score;
  EXPECT_DOUBLE_EQ(found["accuracy"], expected.accuracy());
  EXPECT_DOUBLE_EQ(found["stderr"], expected.standard_error());
  EXPECT_DOUBLE_EQ(found["unparsed"], 0.0);
  EXPECT_EQ(found["count"], 4);
}

TEST_F(EvaluateTest, WritesPredictions) {
  const Json found = json(
      "evaluate",
      {"--data", path("questions.jsonl"), "--task", "generation", "--max-new-tokens", "5", "--limit", "3",
       "--predictions", path("predictions.jsonl")});
  EXPECT_THAT(keys(found), ElementsAre("accuracy", "stderr", "unparsed", "count"));
  EXPECT_EQ(found["count"], 3);
  auto own = model();
  auto first = records();
  first.resize(3);
  const auto expected = evaluate_generation(
      own, *tokenizer(), first, GenerationTaskOptions().generation(GenerationOptions().max_new_tokens(5)));
  EXPECT_DOUBLE_EQ(found["unparsed"], expected.score.unparsed_share());
  std::ifstream lines(folder_ / "predictions.jsonl");
  size_t count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    const Json prediction = Json::parse(line);
    EXPECT_THAT(keys(prediction), ElementsAre("record", "text", "answer", "gold", "correct"));
    EXPECT_EQ(prediction["record"], count + 1);
    EXPECT_EQ(prediction["text"], expected.predictions.at(count).text);
    EXPECT_EQ(prediction["gold"], "true");
  }
  EXPECT_EQ(count, 3u);
}

TEST_F(EvaluateTest, WritesPredictionsOverNothingThatItReads) {
  const std::vector<std::string> generation{"--data", path("questions.jsonl"), "--task", "generation"};
  std::filesystem::create_hard_link(path("questions.jsonl"), path("another_name.jsonl"));
  for (const char* file : {"questions.jsonl", "another_name.jsonl", "model/config.json", "model/model.safetensors"}) {
    std::vector<std::string> arguments = generation;
    arguments.insert(arguments.end(), {"--predictions", path(file)});
    const auto size = std::filesystem::file_size(path(file));
    expect_error(run("evaluate", arguments), 1, std::string(file) + ": is there already");
    EXPECT_EQ(std::filesystem::file_size(path(file)), size);
  }
  for (int again = 0; again < 2; ++again) {
    std::vector<std::string> arguments = generation;
    arguments.insert(arguments.end(), {"--predictions", path("model/predictions.jsonl"), "--max-new-tokens", "1"});
    EXPECT_EQ(run("evaluate", arguments).code, 0);
  }
}

TEST_F(EvaluateTest, SaysWhatOfTheGenerationConfigIsNotFollowed) {
  write("model/generation_config.json", R"({"repetition_penalty": 1.1, "stop_strings": ["a"]})");
  const Outcome outcome = run("generate", {"--prompt", "a", "--max-new-tokens", "1"});
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(
      outcome.err, path("model/generation_config.json") + ": repetition_penalty, stop_strings are not followed\n");
}

TEST_F(EvaluateTest, RefusesWhatItCannotScore) {
  expect_error(run("evaluate", {"--data", path("questions.jsonl"), "--task", "beauty"}), 2, "--task");
  expect_error(run("evaluate", {"--data", path("questions.jsonl")}), 2, "--task");
  expect_error(run("evaluate", {"--data", path("questions.jsonl"), "--task", "choice", "--merge"}), 2, "--adapter");
  expect_error(run("evaluate", {"--data", path("none.jsonl"), "--task", "choice"}), 1, "none.jsonl");
  write("text.jsonl", "{\"text\": \"no question\"}\n");
  expect_error(run("evaluate", {"--data", path("text.jsonl"), "--task", "generation"}), 1, "text.jsonl: record 1");
  write("why.jsonl", "{\"prompt\": \"Why?\", \"completion\": \"Because.\"}\n");
  expect_error(run("evaluate", {"--data", path("why.jsonl"), "--task", "generation"}), 1, "why.jsonl: record 1");
  expect_error(run("evaluate", {"--data", path("why.jsonl"), "--task", "choice"}), 1, "why.jsonl: no record");
}

TEST_F(EvaluateTest, GeneratesIdsAndText) {
  const Json found = json("generate", {"--prompt", "Hello there", "--max-new-tokens", "6", "--json"});
  EXPECT_THAT(keys(found), ElementsAre("ids", "text"));
  auto own = model();
  const auto words = tokenizer();
  std::vector<int64_t> expected = words->encode("Hello there");
  const auto continuation = generate(own, {expected}, GenerationOptions().max_new_tokens(6))[0];
  expected.insert(expected.end(), continuation.begin(), continuation.end());
  EXPECT_EQ(found["ids"].get<std::vector<int64_t>>(), expected);
  std::erase_if(expected, [&](int64_t id) { return id >= words->vocab_size(); });
  EXPECT_EQ(found["text"], words->decode(expected, true));
  EXPECT_EQ(
      run("generate", {"--prompt", "Hello there", "--max-new-tokens", "6"}).out,
      found["text"].get<std::string>() + "\n");
}

TEST_F(EvaluateTest, TakesPromptFilesByteForByte) {
  const std::string prompt = " two  lines \r\n\nand\ta tab\n";
  write("prompt", prompt);
  write("empty", "");
  const auto ids = [&](const std::string& file) {
    return json("generate", {"--prompt-file", path(file), "--max-new-tokens", "0", "--json"})["ids"]
        .get<std::vector<int64_t>>();
  };
  EXPECT_EQ(ids("prompt"), tokenizer()->encode(prompt));
  EXPECT_THAT(ids("empty"), ElementsAre(1));
}

TEST_F(EvaluateTest, StartsAnEmptyPromptFromBos) {
  write("model/tokenizer_config.json", "{\"add_bos_token\": false, \"bos_token\": \"<s>\", \"eos_token\": \"</s>\"}");
  const Json found = json("generate", {"--prompt", "", "--max-new-tokens", "2", "--json"});
  EXPECT_EQ(found["ids"][0], 1);
}

TEST_F(EvaluateTest, GoesOnBehindThePromptWhereTheTokenizerAddsAnEos) {
  const auto expected = tokenizer()->encode("Hello there");
  write("model/tokenizer_config.json", "{\"add_eos_token\": true, \"bos_token\": \"<s>\", \"eos_token\": \"</s>\"}");
  ASSERT_EQ(tokenizer()->encode("Hello there").size(), expected.size() + 1);
  const Json found = json("generate", {"--prompt", "Hello there", "--max-new-tokens", "0", "--json"});
  EXPECT_EQ(found["ids"].get<std::vector<int64_t>>(), expected);
}

TEST_F(EvaluateTest, SamplesBySeed) {
  const auto sampled = [&](const std::string& seed) {
    return json(
        "generate",
        {"--prompt", "Hello", "--max-new-tokens", "12", "--temperature", "1", "--top-k", "50", "--top-p", "0.95",
         "--seed", seed, "--json"});
  };
  EXPECT_EQ(sampled("1"), sampled("1"));
  EXPECT_NE(sampled("1"), sampled("2"));
}

TEST_F(EvaluateTest, RefusesFlagsThatContradictEachOther) {
  expect_error(run("generate", {"--json"}), 2, "--prompt");
  expect_error(run("generate", {"--prompt", "a", "--prompt-file", "b"}), 2, "--prompt");
  expect_error(run("generate", {"--prompt", "a", "--beams", "2", "--temperature", "1"}), 2, "--temperature");
  expect_error(run("generate", {"--prompt", "a", "--top-p", "0"}), 2, "--top-p");
  expect_error(run("generate", {"--prompt-file", path("none")}), 1, "none");
}

TEST_F(EvaluateTest, ChatsLineByLine) {
  const auto chat = [&](const std::string& input) {
    const Outcome outcome = run("chat", {"--temperature", "0", "--max-new-tokens", "8", "--template", "llama2"}, input);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(outcome.err, "");
    return outcome.out;
  };
  const std::string once = chat("Hello\n");
  EXPECT_FALSE(once.empty());
  EXPECT_EQ(chat("\nHello"), once); // a blank line says nothing, the last line may lack its end
  EXPECT_EQ(chat("Hello\n/reset\nHello\n/exit\nHello\n"), once + once);
  const std::string twice = chat("Hello\nHello\n");
  EXPECT_EQ(twice.substr(0, once.size()), once);
  EXPECT_NE(twice, once + once); // as the second answer knows the first
  EXPECT_EQ(chat(""), "");
}

} // namespace
} // namespace rora
