#include <rora/checkpoint/file.h>
#include <rora/error.h>

#include "support/test_data.h"
#include "text/support.h"

#include <c10/util/Exception.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace rora {
namespace {

using json = nlohmann::ordered_json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::TemporaryFolder;
using testing::test_data;

/// The tests' byte-level tokenizer with another part.
std::unique_ptr<Tokenizer> tokenizer_with(const TemporaryFolder& folder, const std::string& part, const json& value) {
  json document = testing::read_test_json(test_data("text/byte_level/tokenizer.json"));
  document[part] = value;
  testing::write_test_json(folder / "tokenizer.json", document);
  return load_tokenizer(folder.path());
}

json split(const std::string& expression) {
  return {{"type", "Split"}, {"pattern", {{"Regex", expression}}}, {"behavior", "Isolated"}, {"invert", false}};
}

json replace(const std::string& from, const std::string& to) {
  return {{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
}

/// What `run` throws as a `FormatError`; "" where it throws nothing.
template <typename Run>
std::string failure(Run run) {
  try {
    run();
    return "";
  } catch (const FormatError& error) {
    return error.what();
  }
}

TEST(Limits, ARegularExpressionThatTakesTooManyStepsIsAnError) {
  const TemporaryFolder folder;
  const std::string text = std::string(200, 'a') + "!b"; // without a b anywhere none is looked for
  for (const char* expression : {"(?:a+)+b", "(?:a|aa)+b", "(?:a*)*b", "(?:(?:a{1,9}){1,9}){1,9}b"}) {
    const auto tokenizer = tokenizer_with(folder, "pre_tokenizer", split(expression));
    EXPECT_EQ(failure([&] { tokenizer->encode("a short text"); }), "") << expression;
    EXPECT_THAT(
        failure([&] { tokenizer->encode(text); }),
        AllOf(
            HasSubstr("tokenizer.json: pre_tokenizer.pattern.Regex: the regular expression fails on the text 'aaa"),
            HasSubstr("limit")))
        << expression;
  }
}

TEST(Limits, LongRunsAreNoneToTheExpressionsOfModels) {
  const TemporaryFolder folder;
  const char* const expression =
      "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
      "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
  const auto tokenizer =
      tokenizer_with(folder, "pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {split(expression)}}});
  for (const char* unit : {"a", " ", "\n", "7", ".", "a b", "\xC3\xA9"}) {
    std::string text;
    while (text.size() < 2'000'000) {
      text += unit;
    }
    EXPECT_EQ(failure([&] { tokenizer->encode(text); }), "") << unit;
  }
}

TEST(Limits, ATextThatItsNormalizersGrowWithoutEndIsAnError) {
  const TemporaryFolder folder;
  json steps;
  for (int i = 0; i < 20; ++i) {
    steps.push_back(replace("q", "qqqqqqqqqq"));
  }
  const auto grown = tokenizer_with(folder, "normalizer", {{"type", "Sequence"}, {"normalizers", steps}});
  EXPECT_EQ(failure([&] { grown->encode("b"); }), "");
  EXPECT_THAT(
      failure([&] { grown->encode("q"); }), HasSubstr("tokenizer.json: normalizer.normalizers[6]: it makes 1048"));
  // The added tokens of the file are normalized as it is read.
  EXPECT_THAT(
      failure([&] {
        tokenizer_with(folder, "normalizer", {{"type", "Prepend"}, {"prepend", std::string(2'000'000, 'p')}});
      }),
      HasSubstr("normalizer: it makes 2000004 bytes"));
}

TEST(Limits, ATextThatItsPreTokenizersGrowWithoutEndIsAnError) {
  const TemporaryFolder folder;
  const json step = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  const json steps = {{"type", "Sequence"}, {"pretokenizers", json(40, step)}};
  const auto tokenizer = tokenizer_with(folder, "pre_tokenizer", steps);
  EXPECT_EQ(failure([&] { tokenizer->encode("b"); }), "");
  EXPECT_THAT(failure([&] { tokenizer->encode("\xC3\xA9"); }), HasSubstr("pre_tokenizer: it makes 2097152 bytes"));
}

TEST(Limits, ATextThatItsDecodersGrowWithoutEndIsAnError) {
  const TemporaryFolder folder;
  const json steps = {{"type", "Sequence"}, {"decoders", json(20, replace("a", "aaaaaaaaaa"))}};
  const auto tokenizer = tokenizer_with(folder, "decoder", steps);
  EXPECT_THAT(
      failure([&] { tokenizer->decode(tokenizer->encode("a")); }), HasSubstr("tokenizer.json: decoder: it makes 1000"));
}

TEST(Limits, ATextOfOver16MiBIsRefused) {
  for (const char* name : {"sentencepiece", "byte_level"}) {
    EXPECT_THROW(
        load_tokenizer(test_data(std::string("text/") + name))->encode(std::string((size_t{16} << 20) + 1, ' ')),
        c10::ValueError);
  }
}

TEST(Limits, AnAddedTokenOfOver1024BytesIsRefused) {
  const TemporaryFolder folder;
  const json token = {{"id", 0}, {"content", std::string(1025, 'x')}};
  EXPECT_THAT(
      failure([&] { tokenizer_with(folder, "added_tokens", json::array({token})); }),
      HasSubstr("added_tokens[0].content: a token of more than 1024 bytes"));
}

} // namespace
} // namespace rora
