#include "text/canonical_composition.h"

#include "support/test_data.h"
#include "text/support.h"
#include "text/utf8.h"

#include <gtest/gtest.h>

namespace rora::detail {
namespace {

TEST(CanonicalComposition, ComposesAsTheReference) {
  for (const auto& row : testing::read_test_json(testing::test_data("text/nfc.json"))) {
    EXPECT_EQ(to_nfc(row[0].get<std::string>()), row[1].get<std::string>()) << row[0].dump();
  }
}

TEST(CanonicalComposition, LeavesWhatIsComposedAsItIs) {
  for (const std::string text :
       {"", "a", "caf\u00e9 \u1ea5 \uac01", "\u65e5\u672c", "\ufb01 \u00bd \uff21", "\U0001F469\u200d"}) {
    EXPECT_EQ(to_nfc(text), text);
  }
}

TEST(CanonicalComposition, SortsMarksAndJoinsThoseThatNoneBlocks) {
  EXPECT_EQ(to_nfc("e\u0301"), "\u00e9");
  EXPECT_EQ(to_nfc("e\u0301\u0327"), "\u0229\u0301"); // the cedilla comes first
  EXPECT_EQ(to_nfc("q\u0307\u0323"), "q\u0323\u0307");
  EXPECT_EQ(to_nfc("a\u0315\u0300"), "\u00e0\u0315");
  EXPECT_EQ(to_nfc("a\u0345\u0305\u0301"), "a\u0305\u0301\u0345"); // the overline blocks the accent
  EXPECT_EQ(to_nfc("\u0301\u0327x"), "\u0327\u0301x"); // at the text's begin there is nothing to join
  EXPECT_EQ(to_nfc("\u212b\u2126\u0344"), "\u00c5\u03a9\u0308\u0301");
  EXPECT_EQ(to_nfc("\u0958"), "\u0915\u093c"); // never composed
}

TEST(CanonicalComposition, ComposesHangulOfEachKind) {
  EXPECT_EQ(to_nfc("\u1112\u1161\u11ab\u1100\u1173\u11af"), "\ud55c\uae00");
  EXPECT_EQ(to_nfc("\uac00\u11a8"), "\uac01");
  EXPECT_EQ(to_nfc("\uac00\u11a7"), "\uac00\u11a7"); // it trails nothing
  EXPECT_EQ(to_nfc("\uac01\u11a8"), "\uac01\u11a8");
}

TEST(CanonicalComposition, ChangesNothingTheSecondTime) {
  for (char32_t point = 1; point < 0x30000; ++point) {
    if (point >= 0xD800 && point < 0xE000) {
      continue;
    }
    const std::string once = to_nfc(to_utf8(point) + "\u0301\u0323");
    ASSERT_EQ(to_nfc(once), once) << static_cast<uint32_t>(point);
  }
}

TEST(CanonicalComposition, TakesLongTextsInLittleTime) {
  std::string marks;
  for (int i = 0; i < (1 << 19); ++i) {
    marks += i % 2 == 0 ? "\u0301" : "\u0323";
  }
  EXPECT_EQ(to_nfc("a" + marks).size(), marks.size() + 1); // the letter and a dot below it are one of three bytes
}

} // namespace
} // namespace rora::detail
