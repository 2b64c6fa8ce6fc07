#include <rora/checkpoint/file.h>
#include <rora/error.h>

#include "support/test_data.h"
#include "text/support.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <c10/util/Exception.h>

namespace rora {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::refusal;
using testing::TemporaryFolder;
using testing::test_data;

std::unique_ptr<Tokenizer> load() {
  return load_tokenizer(test_data("text/sentencepiece"));
}

/// A folder with the model and, if it is not empty, this tokenizer_config.json.
void make_folder(const TemporaryFolder& folder, const std::string& config) {
  std::filesystem::copy_file(test_data("text/sentencepiece/tokenizer.model"), folder / "tokenizer.model");
  if (!config.empty()) {
    write_file(folder / "tokenizer_config.json", config);
  }
}

TEST(SentencePieceTokenizer, EncodesAsTheReference) {
  testing::expect_rows(*load(), testing::read_test_json(test_data("text/sentencepiece/golden.json")));
}

TEST(SentencePieceTokenizer, KnowsItsTokens) {
  const auto tokenizer = load();
  EXPECT_EQ(tokenizer->vocab_size(), 422);
  EXPECT_EQ(tokenizer->token_id("<s>"), 1);
  EXPECT_EQ(tokenizer->token_id("<unk>"), 0);
  EXPECT_EQ(tokenizer->token_id("<|call|>"), 421);
  EXPECT_FALSE(tokenizer->token_id("no such token").has_value());
  EXPECT_EQ(tokenizer->bos_id, 1);
  EXPECT_EQ(tokenizer->eos_id, 2);
  EXPECT_FALSE(tokenizer->pad_id.has_value());
  EXPECT_THROW(tokenizer->decode({422}), c10::IndexError);
  EXPECT_THROW(tokenizer->decode({-1}), c10::IndexError);
}

TEST(SentencePieceTokenizer, LeavesOutSpecialTokensWhenAsked) {
  const auto tokenizer = load();
  const std::vector<int64_t> ids = tokenizer->encode("a cat</s><|call|>");
  EXPECT_EQ(tokenizer->decode(ids), "<s> a cat</s><|call|>");
  EXPECT_EQ(tokenizer->decode(ids, true), "a cat<|call|>");
}

TEST(SentencePieceTokenizer, ReadsIllFormedUtf8AsReplacementCharacters) {
  EXPECT_EQ(load()->encode("a\xE6\x97\xFF"), load()->encode("a\uFFFD\uFFFD"));
}

TEST(SentencePieceTokenizer, AddsWhatItsConfigurationSays) {
  const auto encode = [](const std::string& config, const std::string& text) {
    TemporaryFolder folder;
    make_folder(folder, config);
    const auto tokenizer = load_tokenizer(folder.path());
    std::vector<std::string> parts;
    for (const int64_t id : tokenizer->encode(text)) {
      parts.push_back(tokenizer->decode({1, id}).substr(3));
    }
    return parts;
  };
  EXPECT_THAT(encode("", "x<s>x"), ElementsAre("<s>", " ", "x", "<s>", " ", "x"));
  EXPECT_THAT(encode(R"({"legacy": false})", "x<s>x"), ElementsAre("<s>", " ", "x", "<s>", "x"));
  EXPECT_THAT(encode(R"({"add_prefix_space": false})", "x<s>x"), ElementsAre("<s>", "x", "<s>", "x"));
  EXPECT_THAT(encode(R"({"add_bos_token": false, "add_eos_token": true})", "x"), ElementsAre(" ", "x", "</s>"));
  EXPECT_THAT(encode(R"({"add_bos_token": false})", ""), ElementsAre());
}

TEST(SentencePieceTokenizer, FindsTokensOfAddedTokensJson) {
  TemporaryFolder folder;
  make_folder(folder, R"({"pad_token": "[PAD]"})");
  write_file(folder / "added_tokens.json", R"({"[PAD]": 420})");
  const auto tokenizer = load_tokenizer(folder.path());
  EXPECT_THAT(tokenizer->encode("[PAD]"), ElementsAre(1, 420));
  EXPECT_EQ(tokenizer->pad_id, 420);
  EXPECT_EQ(tokenizer->vocab_size(), 421);
}

TEST(SentencePieceTokenizer, RefusesConfigurationsThatItCannotHonour) {
  const auto refusal_of = [](const std::string& config) {
    TemporaryFolder folder;
    make_folder(folder, config);
    return refusal(folder.path());
  };
  EXPECT_THAT(refusal_of("{"), HasSubstr("tokenizer_config.json: not valid JSON"));
  EXPECT_THAT(
      refusal_of(R"({"add_bos_token": "yes"})"), HasSubstr("add_bos_token: expected true or false, found 'yes'"));
  EXPECT_THAT(refusal_of(R"({"sp_model_kwargs": {"enable_sampling": true}})"), HasSubstr("sp_model_kwargs: "));
  EXPECT_THAT(
      refusal_of(R"({"added_tokens_decoder": {"x": {"content": "y"}}})"),
      HasSubstr("added_tokens_decoder.x: expected an id"));
  EXPECT_THAT(refusal_of(R"({"added_tokens_decoder": {"420": {"content": ""}}})"), HasSubstr("an empty token"));
  EXPECT_THAT(
      refusal_of(R"({"added_tokens_decoder": {"1": {"content": "y"}}})"),
      HasSubstr("'<s>' and 'y' have the same id 1"));
}

TEST(SentencePieceTokenizer, RefusesWhatIsNoWholeModel) {
  const std::string model = read_file(test_data("text/sentencepiece/tokenizer.model"));
  const auto refusal_of = [](const std::string& content) {
    TemporaryFolder folder;
    write_file(folder / "tokenizer.model", content);
    return refusal(folder.path());
  };
  EXPECT_EQ(refusal_of(model), "");
  EXPECT_THAT(refusal_of(""), HasSubstr("tokenizer.model: not a whole sentencepiece model"));
  EXPECT_THAT(refusal_of("version https://git-lfs.github.com/spec/v1\n"), HasSubstr("is a Git LFS pointer"));
  for (size_t length = 1; length < model.size(); length += 97) {
    EXPECT_THAT(refusal_of(model.substr(0, length)), HasSubstr("sentencepiece model")) << length;
  }
  EXPECT_THAT(refusal_of(model.substr(0, model.size() - 1)), HasSubstr("sentencepiece model"));
}

} // namespace
} // namespace rora
