#include <rora/checkpoint/file.h>
#include <rora/error.h>

#include "support/test_data.h"
#include "text/support.h"

#include <sentencepiece_trainer.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <unordered_map>

namespace rora {
namespace {

using ::testing::HasSubstr;
using testing::refusal;
using testing::TemporaryFolder;
using testing::test_data;

std::string varint(size_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) {
    bytes += static_cast<char>(value | 0x80);
  }
  return bytes + static_cast<char>(value);
}

/// A field of bytes of a protobuf message.
std::string field(int number, const std::string& content) {
  return static_cast<char>(number << 3 | 2) + varint(content.size()) + content;
}

std::string piece(const std::string& text, const std::string& more = {}) {
  return field(1, field(1, text) + more);
}

const std::string kUserDefined = {3 << 3, 4};

/// What the tests' model is refused for with `more` behind it.
std::string refusal_with(const std::string& more) {
  TemporaryFolder folder;
  write_file(folder / "tokenizer.model", read_file(test_data("text/sentencepiece/tokenizer.model")) + more);
  return refusal(folder.path());
}

class Lines : public sentencepiece::SentenceIterator {
 public:
  bool done() const override {
    return next_ == lines_.size();
  }
  void Next() override {
    ++next_;
  }
  const std::string& value() const override {
    return lines_[next_];
  }
  sentencepiece::util::Status status() const override {
    return {};
  }

 private:
  std::vector<std::string> lines_{"Once upon a time there was a cafe", "and they all lived happily ever after"};
  size_t next_ = 0;
};

/// A model that sentencepiece trains with these rules of normalisation.
std::string train(const std::string& rules) {
  Lines lines;
  const std::unordered_map<std::string, std::string> options{
      {"vocab_size", "60"},       {"hard_vocab_limit", "false"}, {"normalization_rule_name", rules},
      {"byte_fallback", "false"}, {"minloglevel", "2"},          {"num_threads", "1"}};
  std::string model;
  EXPECT_TRUE(sentencepiece::SentencePieceTrainer::Train(options, &lines, &model).ok());
  return model;
}

TEST(SentencePieceModel, NormalizesAsItsTrainedCharsmapSays) {
  for (const char* rules : {"nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf", "identity"}) {
    TemporaryFolder folder;
    write_file(folder / "tokenizer.model", train(rules));
    const auto tokenizer = load_tokenizer(folder.path());
    const std::vector<int64_t> wide = tokenizer->encode("\uFF4F\uFF4E\uFF43\uFF45"); // fullwidth "once"
    EXPECT_EQ(wide == tokenizer->encode("once"), std::string(rules) != "identity") << rules;
  }
}

TEST(SentencePieceModel, RefusesACharsmapThatLeadsOutside) {
  // Its trie's root leads to unit 0x300 of 256.
  const std::string root("\0\0\x0C\0", 4);
  const std::string charsmap = std::string("\0\4\0\0", 4) + root + std::string(4 * 255, '\0') + std::string("b\0", 2);
  const std::string spec = field(2, charsmap);
  EXPECT_THAT(
      refusal_with(field(3, spec)),
      HasSubstr("tokenizer.model: normalizer_spec.precompiled_charsmap is malformed: its trie leads outside"));
  EXPECT_THAT(refusal_with(field(5, spec)), HasSubstr("denormalizer_spec.precompiled_charsmap is malformed"));
  // A later message would take its place, and an earlier one would not be seen in the merged one.
  EXPECT_THAT(refusal_with(field(3, spec) + field(3, field(2, ""))), HasSubstr("is malformed"));
  // The same field under a key of 33 bits, of which the library drops one.
  EXPECT_THAT(
      refusal_with("\x9A\x80\x80\x80\x10" + varint(spec.size()) + spec), HasSubstr("not a whole sentencepiece model"));
}

TEST(SentencePieceModel, RefusesPiecesThatItsTriesCannotHold) {
  EXPECT_EQ(refusal_with(piece("new")), "");
  EXPECT_THAT(refusal_with(piece(std::string("a\0b", 3))), HasSubstr("is not UTF-8 without zero bytes"));
  EXPECT_THAT(refusal_with(piece("\xC3")), HasSubstr("is not UTF-8"));
  EXPECT_EQ(refusal_with(piece(std::string(1024, 'a'))), "");
  EXPECT_THAT(refusal_with(piece(std::string(1025, 'a'))), HasSubstr("is longer than 1024 bytes"));
  EXPECT_THAT(
      refusal_with(piece("new", std::string("\x15\0\0\xC0\x7F", 5))), HasSubstr("has a score that is no number"));
  std::string alike;
  for (size_t length = 4; length < 68; ++length) {
    alike += piece(std::string(length, 'z'), kUserDefined);
  }
  EXPECT_EQ(refusal_with(alike), "");
  EXPECT_THAT(refusal_with(alike + piece("zzz", kUserDefined)), HasSubstr("more than 64 user-defined pieces"));
  EXPECT_EQ(refusal_with(alike + piece("zzy", kUserDefined)), "");
}

} // namespace
} // namespace rora
