#include <rora/text/prompt.h>

#include "data/byte_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace rora {
namespace {

using testing::ByteTokenizer;
using ::testing::ElementsAre;

constexpr int64_t kBos = ByteTokenizer::kBos;

TEST(Prompt, HasNoEosThatTheTokenizerPutsBehind) {
  EXPECT_THAT(encode_prompt(ByteTokenizer(true, true), "p"), ElementsAre(kBos, 'p'));
  EXPECT_THAT(encode_prompt(ByteTokenizer(true, true), ""), ElementsAre(kBos));
  EXPECT_THAT(encode_prompt(ByteTokenizer(false, true), "p"), ElementsAre('p'));
  EXPECT_THAT(encode_prompt(ByteTokenizer(false, true), ""), ElementsAre());
}

TEST(Prompt, KeepsAnEosThatIsSpelledOut) {
  EXPECT_THAT(encode_prompt(ByteTokenizer(true, false), "p</s>"), ElementsAre(kBos, 'p', ByteTokenizer::kEos));
  EXPECT_THAT(encode_prompt(ByteTokenizer(true, true), "p</s>"), ElementsAre(kBos, 'p', ByteTokenizer::kEos));
}

TEST(Prompt, KeepsABosThatIsAlsoEos) {
  ByteTokenizer tokenizer;
  tokenizer.eos_id = kBos;
  EXPECT_THAT(encode_prompt(tokenizer, ""), ElementsAre(kBos));
}

} // namespace
} // namespace rora
