#include <rora/checkpoint/file.h>
#include <rora/error.h>
#include <rora/text/tokenizer.h>

#include "support/test_data.h"
#include "text/support.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <c10/util/Exception.h>

#include <cstdlib>
#include <sstream>
#include <thread>

namespace rora {
namespace {

using ::testing::ElementsAre;
using testing::expect_rows;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::read_test_json;
using testing::TemporaryFolder;
using testing::test_data;

std::unique_ptr<Tokenizer> load(const std::string& name) {
  return load_tokenizer(test_data("text/" + name));
}

void copy_tokenizer_json(const TemporaryFolder& folder, const std::string& name) {
  std::filesystem::copy_file(test_data("text/" + name) / "tokenizer.json", folder / "tokenizer.json");
}

TEST(JsonTokenizer, EncodesByteFallbackAsTheReference) {
  expect_rows(*load("byte_fallback"), read_test_json(test_data("text/byte_fallback/golden.json")));
}

TEST(JsonTokenizer, EncodesByteLevelAsTheReference) {
  expect_rows(*load("byte_level"), read_test_json(test_data("text/byte_level/golden.json")));
}

TEST(JsonTokenizer, DecodesWhatItEncoded) {
  for (const char* const name : {"byte_fallback", "byte_level"}) {
    const auto tokenizer = load(name);
    for (const auto& row : read_test_json(test_data("text/byte_level/golden.json"))) {
      const auto text = row["text"].get<std::string>();
      const bool has_own_rules = text.find("<|call|>") != std::string::npos || text.find("▁") != std::string::npos ||
          text.find("<0x") != std::string::npos || text.find("s>") != std::string::npos ||
          text.find("<unk>") != std::string::npos;
      if (!has_own_rules) { // tokens that take spaces with them, and what the byte-fallback decoder reads otherwise
        EXPECT_EQ(tokenizer->decode(tokenizer->encode(text, false)), text) << name;
      }
    }
  }
}

TEST(JsonTokenizer, LeavesOutSpecialTokensWhenAsked) {
  const auto tokenizer = load("byte_level");
  const std::vector<int64_t> ids = tokenizer->encode("a cat<|end|>");
  EXPECT_EQ(tokenizer->decode(ids), "<|begin|>a cat<|end|><|end|>");
  EXPECT_EQ(tokenizer->decode(ids, true), "a cat");
  EXPECT_EQ(load("byte_fallback")->decode(load("byte_fallback")->encode("a cat"), true), "a cat");
}

TEST(JsonTokenizer, ReadsIllFormedUtf8AsReplacementCharacters) {
  const auto expect_same = [](const std::string& ill_formed, const std::string& replaced) {
    for (const char* const name : {"byte_fallback", "byte_level"}) {
      EXPECT_EQ(load(name)->encode(ill_formed), load(name)->encode(replaced)) << replaced;
    }
  };
  expect_same("a\xFF", "a\uFFFD");
  expect_same("\xC3", "\uFFFD");
  expect_same("\xE6\x97", "\uFFFD");
  expect_same("\xE6\x97z", "\uFFFDz");
  expect_same("\xF0\x9F\x98\xF0\x9F\x98\x80", "\uFFFD😀");
  expect_same("\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD"); // a surrogate
  expect_same("\xC0\xAF", "\uFFFD\uFFFD"); // an overlong slash
  expect_same("\xF4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"); // beyond U+10FFFF
}

TEST(JsonTokenizer, DecodesHalfACharacterAsReplacementCharacter) {
  const auto tokenizer = load("byte_level");
  std::vector<int64_t> ids = tokenizer->encode("日", false);
  ASSERT_GT(ids.size(), 1u);
  ids.pop_back();
  EXPECT_EQ(tokenizer->decode(ids), "\uFFFD");
}

TEST(JsonTokenizer, ThrowsForIdsOutsideTheVocabulary) {
  const auto tokenizer = load("byte_level");
  EXPECT_NO_THROW(tokenizer->decode({tokenizer->vocab_size() - 1}));
  EXPECT_THROW(tokenizer->decode({tokenizer->vocab_size()}), c10::IndexError);
  EXPECT_THROW(tokenizer->decode({0, -1}), c10::IndexError);
}

TEST(JsonTokenizer, KnowsTheIdsOfItsTokens) {
  const auto tokenizer = load("byte_level");
  EXPECT_EQ(tokenizer->vocab_size(), 364);
  EXPECT_EQ(tokenizer->token_id("<|begin|>"), 360);
  EXPECT_EQ(tokenizer->token_id("cats"), 363);
  EXPECT_TRUE(tokenizer->token_id("Ġ").has_value());
  EXPECT_FALSE(tokenizer->token_id("no such token").has_value());
}

TEST(JsonTokenizer, EncodesLongTextsInLittleTime) {
  std::string words;
  while (words.size() < (1 << 18)) {
    words += "the cat sees 12 dogs  and it's ";
  }
  for (const std::string& text :
       {words, std::string(1 << 18, 'a'), std::string(1 << 18, ' '), std::string(1 << 18, '\n')}) {
    for (const char* const name : {"byte_fallback", "byte_level"}) {
      const auto tokenizer = load(name);
      EXPECT_EQ(tokenizer->decode(tokenizer->encode(text, false)), text) << name;
    }
  }
}

TEST(JsonTokenizer, EncodesInSeveralThreadsAtOnce) {
  const auto tokenizer = load("byte_level");
  const std::string text = "The cat sees 12 dogs, and it's naïveté<|end|>.";
  const std::vector<int64_t> expected = tokenizer->encode(text);
  std::vector<int> wrong(4, 0);
  std::vector<std::thread> threads;
  for (int& count : wrong) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
        count += tokenizer->encode(text) != expected;
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_THAT(wrong, ElementsAre(0, 0, 0, 0));
}

TEST(LoadTokenizer, TakesSpecialTokensFromTheFirstFileThatNamesThem) {
  TemporaryFolder folder;
  copy_tokenizer_json(folder, "byte_level");
  EXPECT_FALSE(load_tokenizer(folder.path())->bos_id.has_value());

  write_file(folder / "config.json", R"({"bos_token_id": 7, "eos_token_id": [8, 9], "pad_token_id": -1})");
  auto tokenizer = load_tokenizer(folder.path());
  EXPECT_EQ(tokenizer->bos_id, 7);
  EXPECT_EQ(tokenizer->eos_id, 8);
  EXPECT_FALSE(tokenizer->pad_id.has_value());

  write_file(folder / "generation_config.json", R"({"eos_token_id": 10, "pad_token_id": null})");
  EXPECT_EQ(load_tokenizer(folder.path())->eos_id, 10);

  write_file(folder / "special_tokens_map.json", R"({"eos_token": {"content": "<|end|>"}, "bos_token": "<|end|>"})");
  EXPECT_EQ(load_tokenizer(folder.path())->eos_id, 361);
  EXPECT_EQ(load_tokenizer(folder.path())->bos_id, 361);

  write_file(folder / "tokenizer_config.json", R"({"bos_token": "<|begin|>", "eos_token": null, "pad_token": ""})");
  tokenizer = load_tokenizer(folder.path());
  EXPECT_EQ(tokenizer->bos_id, 360);
  EXPECT_EQ(tokenizer->eos_id, 361);
  EXPECT_FALSE(tokenizer->pad_id.has_value());
}

TEST(LoadTokenizer, RefusesSpecialTokensOutsideTheVocabulary) {
  TemporaryFolder folder;
  copy_tokenizer_json(folder, "byte_level");
  write_file(folder / "tokenizer_config.json", R"({"bos_token": {"content": "<bos>"}})");
  EXPECT_THAT(
      testing::refusal(folder.path()), HasSubstr("tokenizer_config.json: bos_token: '<bos>' is not in the vocabulary"));
  write_file(folder / "tokenizer_config.json", R"({"bos_token": 3})");
  EXPECT_THAT(testing::refusal(folder.path()), HasSubstr("bos_token: expected an object, found 3"));
  write_file(folder / "tokenizer_config.json", "{}");
  write_file(folder / "config.json", R"({"eos_token_id": "2"})");
  EXPECT_THAT(testing::refusal(folder.path()), HasSubstr("config.json: eos_token_id: expected an integer, found '2'"));
}

// The ids are those of transformers 5.23.
TEST(LoadTokenizer, FindsTheSpecialTokensThatOtherFilesName) {
  const std::string text = "A pain, river pain";
  const auto encoded_with = [&](const std::string& file, const std::string& content) {
    TemporaryFolder folder;
    copy_tokenizer_json(folder, "byte_level");
    write_file(folder / file, content);
    return load_tokenizer(folder.path())->encode(text, false);
  };
  EXPECT_THAT(encoded_with("tokenizer_config.json", "{}"), ElementsAre(32, 339, 11, 349, 81, 339));
  for (const auto& [file, content] : std::vector<std::pair<std::string, std::string>>{
           {"tokenizer_config.json", R"({"pad_token": "pain"})"},
           {"tokenizer_config.json", R"({"mask_token": {"content": "pain", "special": true}})"},
           {"tokenizer_config.json", R"({"additional_special_tokens": ["<|end|>", "pain"]})"},
           {"tokenizer_config.json", R"({"extra_special_tokens": ["pain"]})"},
           {"tokenizer_config.json", R"({"extra_special_tokens": {"image_token": "pain"}})"},
           {"tokenizer_config.json", R"({"added_tokens_decoder": {"338": {"content": "pain", "special": false}}})"},
           {"special_tokens_map.json", R"({"additional_special_tokens": ["pain"]})"},
           {"added_tokens.json", R"({"<|end|>": 361, "pain": 338})"}}) {
    EXPECT_THAT(encoded_with(file, content), ElementsAre(32, 220, 338, 11, 349, 81, 220, 338)) << content;
  }
  EXPECT_THAT(
      encoded_with("tokenizer_config.json", R"({"pad_token": {"content": "pain", "lstrip": true, "special": true}})"),
      ElementsAre(32, 338, 11, 349, 81, 338));
}

TEST(LoadTokenizer, LeavesOutNamedTokensWhereSpecialOnesAreSkipped) {
  const auto decoded_with = [](const std::string& config) {
    TemporaryFolder folder;
    copy_tokenizer_json(folder, "byte_level");
    write_file(folder / "tokenizer_config.json", config);
    return load_tokenizer(folder.path())->decode({32, 220, 338}, /*skip_special_tokens=*/true);
  };
  EXPECT_EQ(decoded_with("{}"), "A pain");
  EXPECT_EQ(decoded_with(R"({"pad_token": "pain"})"), "A ");
  EXPECT_EQ(decoded_with(R"({"pad_token": {"content": "pain", "lstrip": false}})"), "A ");
  EXPECT_EQ(decoded_with(R"({"added_tokens_decoder": {"338": {"content": "pain"}}})"), "A pain");
}

TEST(LoadTokenizer, ReadsNoOlderFileWhereTheConfigListsTokens) {
  TemporaryFolder folder;
  copy_tokenizer_json(folder, "byte_level");
  write_file(folder / "tokenizer_config.json", R"({"added_tokens_decoder": {"361": {"content": "<|end|>"}}})");
  write_file(folder / "special_tokens_map.json", R"({"additional_special_tokens": ["<X>"]})");
  write_file(folder / "added_tokens.json", R"({"<X>": 364})");
  EXPECT_EQ(testing::refusal(folder.path()), "");
}

TEST(LoadTokenizer, RefusesTokensOfOtherFilesThatTokenizerJsonLacks) {
  const auto refusal_of = [](const std::string& file, const std::string& content) {
    TemporaryFolder folder;
    copy_tokenizer_json(folder, "byte_level");
    write_file(folder / file, content);
    return testing::refusal(folder.path());
  };
  const char* const config = "tokenizer_config.json";
  EXPECT_THAT(
      refusal_of(config, R"({"additional_special_tokens": ["<X>"]})"),
      HasSubstr("tokenizer_config.json: additional_special_tokens[0]: '<X>' is not in the vocabulary"));
  EXPECT_THAT(
      refusal_of(config, R"({"added_tokens_decoder": {"364": {"content": "<X>"}}})"),
      HasSubstr("'<X>' is not in the vocabulary"));
  EXPECT_THAT(
      refusal_of(config, R"({"added_tokens_decoder": {"7": {"content": "<|end|>"}}})"),
      HasSubstr("'<|end|>' has the id 361 in tokenizer.json, not 7"));
  EXPECT_THAT(
      refusal_of(config, R"({"added_tokens_decoder": {"x": {"content": "<|end|>"}}})"),
      HasSubstr("expected ids for keys, found 'x'"));
  EXPECT_THAT(
      refusal_of("added_tokens.json", R"({"<X>": 364})"), HasSubstr("added_tokens.json: <X>: '<X>' is not in the"));
  EXPECT_THAT(refusal_of("added_tokens.json", R"({"cats": 3})"), HasSubstr("'cats' has the id 363"));
  EXPECT_THAT(
      refusal_of(config, R"({"additional_special_tokens": [7]})"),
      HasSubstr("additional_special_tokens[0]: expected an object, found 7"));
}

TEST(LoadTokenizer, RefusesAConfigurationThatTokenizerJsonContradicts) {
  const auto refusal_of = [](const std::string& name, const std::string& config) {
    TemporaryFolder folder;
    copy_tokenizer_json(folder, name);
    write_file(folder / "tokenizer_config.json", config);
    return testing::refusal(folder.path());
  };
  const std::string llama2 = R"("bos_token": "<s>", "eos_token": "</s>"})";
  EXPECT_EQ(refusal_of("byte_fallback", R"({"add_bos_token": true, "add_eos_token": false, )" + llama2), "");
  EXPECT_EQ(refusal_of("byte_fallback", R"({"add_bos_token": null, )" + llama2), "");
  EXPECT_EQ(refusal_of("byte_fallback", R"({"add_bos_token": false})"), ""); // of no token
  EXPECT_THAT(
      refusal_of("byte_fallback", R"({"add_bos_token": false, )" + llama2),
      HasSubstr("tokenizer_config.json: add_bos_token: it is false, and tokenizer.json begins a text with bos_token"));
  EXPECT_THAT(
      refusal_of("byte_fallback", R"({"add_eos_token": true, )" + llama2),
      HasSubstr("add_eos_token: it is true, and tokenizer.json does not end a text with eos_token"));
  EXPECT_THAT(
      refusal_of("byte_level", R"({"add_eos_token": false, "eos_token": "<|end|>"})"),
      HasSubstr("add_eos_token: it is false, and tokenizer.json ends a text with eos_token"));
  EXPECT_THAT(
      refusal_of("byte_level", R"({"add_bos_token": 1, "bos_token": "<|begin|>"})"),
      HasSubstr("add_bos_token: expected true or false, found 1"));
  EXPECT_THAT(
      refusal_of("byte_level", R"({"split_special_tokens": true})"),
      HasSubstr("split_special_tokens: expected false: special tokens are always found in a text"));
}

TEST(LoadTokenizer, PrefersTheSentencePieceModel) {
  TemporaryFolder folder;
  EXPECT_THROW(load_tokenizer(folder.path()), FileError);
  EXPECT_THROW(load_tokenizer(folder.path(), TokenizerKind::kJson), FileError);
  EXPECT_THROW(load_tokenizer(folder.path(), TokenizerKind::kSentencePiece), FileError);
  copy_tokenizer_json(folder, "byte_level");
  EXPECT_EQ(load_tokenizer(folder.path())->vocab_size(), 364);
  std::filesystem::copy_file(test_data("text/sentencepiece/tokenizer.model"), folder / "tokenizer.model");
  EXPECT_EQ(load_tokenizer(folder.path())->vocab_size(), 420);
  EXPECT_EQ(load_tokenizer(folder.path(), TokenizerKind::kJson)->vocab_size(), 364);
}

// RORA_GOLDEN_TEXT=FOLDER:FILE,...: a model folder, and the answers of the Python library for it under "tokenisation".
TEST(LoadTokenizer, EncodesGivenFoldersAsTheReference) {
  const char* const given = std::getenv("RORA_GOLDEN_TEXT");
  if (given == nullptr) {
    GTEST_SKIP() << "RORA_GOLDEN_TEXT names no folders";
  }
  std::istringstream list(given);
  for (std::string entry; std::getline(list, entry, ',');) {
    SCOPED_TRACE(entry);
    const size_t colon = entry.find(':');
    ASSERT_NE(colon, std::string::npos);
    const auto tokenizer = load_tokenizer(entry.substr(0, colon), TokenizerKind::kJson);
    expect_rows(*tokenizer, read_test_json(entry.substr(colon + 1))["tokenisation"]);
  }
}

} // namespace
} // namespace rora
