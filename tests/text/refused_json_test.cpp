#include <rora/checkpoint/file.h>

#include "support/test_data.h"
#include "text/support.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace rora {
namespace {

using json = nlohmann::ordered_json;
using ::testing::HasSubstr;
using testing::refusal;
using testing::TemporaryFolder;
using testing::test_data;

/// What a tokenizer.json is refused for in which `value` stands at `pointer`.
std::string refusal_of(const std::string& pointer, const json& value, const std::string& base = "byte_fallback") {
  json document = testing::read_test_json(test_data("text/" + base) / "tokenizer.json");
  document[json::json_pointer(pointer)] = value;
  TemporaryFolder folder;
  testing::write_test_json(folder / "tokenizer.json", document);
  return refusal(folder.path());
}

std::string refusal_of_content(const std::string& content) {
  TemporaryFolder folder;
  write_file(folder / "tokenizer.json", content);
  return refusal(folder.path());
}

std::string refusal_of_regex(const std::string& expression) {
  return refusal_of(
      "/pre_tokenizer",
      {{"type", "Split"}, {"pattern", {{"Regex", expression}}}, {"behavior", "Isolated"}, {"invert", false}});
}

json metaspace(const std::string& scheme) {
  return {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", scheme}};
}

TEST(RefusedTokenizerJson, NamesTheFileForWhatIsNoJsonObject) {
  EXPECT_THAT(refusal_of_content(""), HasSubstr("/tokenizer.json: not valid JSON"));
  EXPECT_THAT(refusal_of_content("{\"version\": \"1.0\", "), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal_of_content("[]"), HasSubstr("expected a JSON object, found array"));
  EXPECT_THAT(refusal_of_content("{}"), HasSubstr("model: expected an object, found nothing"));
  EXPECT_THAT(refusal_of_content(std::string("{}\0{}", 5)), HasSubstr("zero byte at offset 2"));
  EXPECT_THAT(refusal_of_content("{\"model\": \"\xFF\"}"), HasSubstr("not valid JSON"));
  const std::string deep = std::string(100000, '[') + std::string(100000, ']');
  EXPECT_THAT(refusal_of_content("{\"model\": " + deep + "}"), HasSubstr("nested deeper than 64 levels"));
}

TEST(RefusedTokenizerJson, NamesUnsupportedTypes) {
  EXPECT_THAT(refusal_of("/model/type", "Unigram"), HasSubstr("model.type: expected BPE, found 'Unigram'"));
  EXPECT_THAT(
      refusal_of("/normalizer", {{"type", "NFKC"}}),
      HasSubstr("normalizer.type: expected Sequence, Prepend, Replace or NFC, found 'NFKC'"));
  EXPECT_THAT(refusal_of("/normalizer/normalizers/1/type", "Lowercase"), HasSubstr("normalizer.normalizers[1].type: "));
  EXPECT_THAT(refusal_of("/pre_tokenizer", {{"type", "Whitespace"}}), HasSubstr("pre_tokenizer.type: "));
  EXPECT_THAT(refusal_of("/post_processor/type", "RobertaProcessing"), HasSubstr("post_processor.type: "));
  EXPECT_THAT(refusal_of("/decoder/decoders/0/type", "CTC"), HasSubstr("decoder.decoders[0].type: "));
  EXPECT_THAT(
      refusal_of("/decoder/decoders/0", nullptr), HasSubstr("decoder.decoders[0]: expected an object, found nothing"));
}

TEST(RefusedTokenizerJson, NamesWhatItAsksForAndWeLack) {
  EXPECT_THAT(refusal_of("/version", "2.0"), HasSubstr("version: expected 1.0, found '2.0'"));
  EXPECT_THAT(refusal_of("/truncation", {{"max_length", 8}}), HasSubstr("truncation: expected null"));
  EXPECT_THAT(refusal_of("/padding", {{"strategy", "BatchLongest"}}), HasSubstr("padding: expected null"));
  EXPECT_THAT(refusal_of("/surprise", 1), HasSubstr("surprise: this field is not supported"));
  EXPECT_THAT(refusal_of("/model/surprise", 1), HasSubstr("model.surprise: this field is not supported"));
  EXPECT_THAT(refusal_of("/decoder/decoders/1/surprise", 1), HasSubstr("decoder.decoders[1].surprise: this field"));
  EXPECT_THAT(refusal_of("/model/dropout", 0.1), HasSubstr("model.dropout: expected null, found 0.1"));
  EXPECT_THAT(refusal_of("/model/continuing_subword_prefix", "##"), HasSubstr("model.continuing_subword_prefix: "));
  EXPECT_THAT(refusal_of("/model/end_of_word_suffix", "</w>"), HasSubstr("model.end_of_word_suffix: "));
  EXPECT_THAT(
      refusal_of("/pre_tokenizer", metaspace("first")),
      HasSubstr("pre_tokenizer: prepend_scheme first is not supported"));
  EXPECT_EQ(refusal_of("/model/dropout", 0.0), "");
  EXPECT_EQ(refusal_of("/model/end_of_word_suffix", ""), "");
}

TEST(RefusedTokenizerJson, NamesWrongValues) {
  EXPECT_THAT(
      refusal_of("/model/byte_fallback", "yes"), HasSubstr("model.byte_fallback: expected true or false, found 'yes'"));
  EXPECT_THAT(
      refusal_of("/normalizer/normalizers/0/prepend", 3),
      HasSubstr("normalizer.normalizers[0].prepend: expected a string, found 3"));
  EXPECT_THAT(
      refusal_of("/normalizer/normalizers/1/pattern", {{"String", ""}}), HasSubstr("pattern.String: an empty string"));
  EXPECT_THAT(
      refusal_of("/normalizer/normalizers/1/pattern", {{"Regex", "x*"}}), HasSubstr("matches the empty string"));
  EXPECT_THAT(
      refusal_of("/normalizer/normalizers/1/pattern", {{"Regex", "x"}, {"String", "x"}}),
      HasSubstr("either String or Regex"));
  EXPECT_THAT(
      refusal_of("/decoder/decoders/3/content", "ab"),
      HasSubstr("decoder.decoders[3].content: expected one character"));
  EXPECT_THAT(
      refusal_of("/decoder/decoders/3/start", -1), HasSubstr("decoder.decoders[3].start: expected no negative number"));
  EXPECT_THAT(
      refusal_of("/pre_tokenizer", metaspace("often")), HasSubstr("prepend_scheme: expected always, first or never"));
  json contradiction = metaspace("always");
  contradiction["add_prefix_space"] = false;
  EXPECT_THAT(refusal_of("/pre_tokenizer", contradiction), HasSubstr("add_prefix_space: it is false"));
  EXPECT_THAT(
      refusal_of("/pre_tokenizer/pretokenizers/0/behavior", "Kept", "byte_level"),
      HasSubstr("behavior: expected Removed, "));
}

TEST(RefusedTokenizerJson, NamesFaultsOfTheVocabulary) {
  EXPECT_THAT(refusal_of("/model/vocab", nullptr), HasSubstr("model.vocab: expected an object, found nothing"));
  EXPECT_THAT(
      refusal_of("/model/vocab/new", -1),
      HasSubstr("model.vocab.new: expected an id that fits into 31 bits, found -1"));
  EXPECT_THAT(refusal_of("/model/vocab/new", 1e10), HasSubstr("model.vocab.new: expected an id"));
  EXPECT_THAT(refusal_of("/model/vocab/new", 3), HasSubstr("the id 3 is also that of"));
  EXPECT_THAT(
      refusal_of("/model/unk_token", "<what>"), HasSubstr("model.unk_token: '<what>' is not in the vocabulary"));
  EXPECT_THAT(
      refusal_of("/model/merges", json::array()), HasSubstr("model.merges: expected at least one merge, found none"));
  EXPECT_THAT(
      refusal_of("/model/merges/0", "a"), HasSubstr("model.merges[0]: expected two tokens with one space between"));
  EXPECT_THAT(refusal_of("/model/merges/0", "a b c"), HasSubstr("model.merges[0]: expected two tokens"));
  EXPECT_THAT(
      refusal_of("/model/merges/0", {"a", "b", "c"}), HasSubstr("model.merges[0]: expected two tokens, found 3"));
  EXPECT_THAT(
      refusal_of("/model/merges/0", {"a", "zzzz"}), HasSubstr("model.merges[0]: 'zzzz' is not in the vocabulary"));
  EXPECT_THAT(refusal_of("/model/merges/0", {"T", "T"}), HasSubstr("model.merges[0]: 'TT' is not in the vocabulary"));
}

TEST(RefusedTokenizerJson, NamesFaultsOfAddedTokens) {
  EXPECT_THAT(refusal_of("/added_tokens/1/id", 2), HasSubstr("added_tokens[1].id: expected 1 for '<s>', found 2"));
  EXPECT_THAT(refusal_of("/added_tokens/1/content", ""), HasSubstr("added_tokens[1].content: an empty token"));
  EXPECT_THAT(
      refusal_of("/added_tokens/1", {{"id", 0}, {"content", "<unk>"}}), HasSubstr("'<unk>' is spelled like another"));
  EXPECT_THAT(refusal_of("/added_tokens/1/surprise", true), HasSubstr("added_tokens[1].surprise: this field"));
  EXPECT_THAT(
      refusal_of("/added_tokens/3", {{"id", 999}, {"content", "<new>"}}),
      HasSubstr("expected 420 for '<new>', found 999"));
}

TEST(RefusedTokenizerJson, NamesFaultsOfTheTemplate) {
  const std::string single = "/post_processor/single";
  EXPECT_THAT(
      refusal_of(single + "/1/Sequence/id", "B"),
      HasSubstr("post_processor.single[1]: expected the sequence A, and once"));
  EXPECT_THAT(refusal_of(single + "/2", {{"Sequence", {{"id", "A"}}}}), HasSubstr("expected the sequence A, and once"));
  EXPECT_THAT(refusal_of(single, json::array()), HasSubstr("post_processor.single: it has no place for the text"));
  EXPECT_THAT(
      refusal_of(single + "/0/SpecialToken/id", "<x>"),
      HasSubstr("special_tokens.<x>: expected an object, found nothing"));
  EXPECT_THAT(
      refusal_of("/post_processor/special_tokens/<s>/ids/0", 4711),
      HasSubstr("expected an id of the vocabulary, found 4711"));
  const json post_processor = testing::read_test_json(test_data("text/byte_fallback/tokenizer.json"))["post_processor"];
  EXPECT_THAT(
      refusal_of("/post_processor", {{"type", "Sequence"}, {"processors", {post_processor, post_processor}}}),
      HasSubstr("post_processor.processors[1]: a second template is not supported"));
}

TEST(RefusedTokenizerJson, NamesExpressionsThatPcre2WouldReadOtherwise) {
  for (const char* const expression :
       {"^a",    "a$",      "\\bword", "\\h",         "(?i)a",       "(?<name>a)", "a{1,2}+", "a{2}?",
        "a{,2}", "[a[bc]]", "[a&&b]",  "[[:alpha:]]", "[]a]",        "(?i:ss)",    "(?i:é)",  "(?i:[a-z])",
        "[\\W]", "\\1",     "\\xE9",   "\\",          "\\p{Letter}", "\\pL"}) {
    EXPECT_THAT(refusal_of_regex(expression), HasSubstr("pattern.Regex: this regular expression is not supported: "))
        << expression;
  }
  for (const char* const expression : {"(a", "a)", "[a", "*a"}) {
    EXPECT_THAT(refusal_of_regex(expression), HasSubstr("this regular expression is not supported: ")) << expression;
  }
  for (const char* const expression :
       {"\\p{Han}+", "\\p{^L}\\P{Lu}", "\\x41\\x{1F600}\\u00e9", "(?<=a)b(?!c)", "a++|b?+|(?>c)*?", "[^\\]\\-a-z]"}) {
    EXPECT_EQ(refusal_of_regex(expression), "") << expression;
  }
}

} // namespace
} // namespace rora
