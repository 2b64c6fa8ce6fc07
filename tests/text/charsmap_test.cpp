#include "text/charsmap.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <c10/util/Exception.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace rora {
namespace {

using ::testing::HasSubstr;

constexpr uint32_t kHasValue = 1 << 8;
constexpr uint32_t kIsValue = uint32_t{1} << 31;

/// A double array whose path spells `length` times "a"; the last `matches` of its nodes have the value 0. The children
/// of the k-th node lie in the k-th block of 256 units.
std::vector<uint32_t> chain(size_t length, size_t matches) {
  std::vector<uint32_t> units(256 * (length + 1));
  for (size_t i = 0; i < units.size(); ++i) {
    units[i] = i & 0xFF; // fits no base that is used
  }
  size_t index = 0;
  for (size_t node = 0; node <= length; ++node) {
    const size_t base = 256 * node + 1;
    units[index] = static_cast<uint32_t>(index ^ base) << 10 | (node == 0 ? 0 : 'a');
    if (node > length - matches) {
      units[index] |= kHasValue;
      units[base] = kIsValue;
    }
    index = base ^ 'a';
  }
  return units;
}

std::string charsmap(const std::vector<uint32_t>& units, const std::string& replacements = std::string("b\0", 2)) {
  const auto size = static_cast<uint32_t>(units.size() * sizeof(uint32_t));
  std::string content(reinterpret_cast<const char*>(&size), sizeof(size));
  content.append(reinterpret_cast<const char*>(units.data()), size);
  return content + replacements;
}

/// Why it is refused; "" where it is not.
std::string refusal(const std::string& content) {
  try {
    detail::check_charsmap(content);
    return "";
  } catch (const c10::ValueError& error) {
    return error.what_without_backtrace();
  }
}

std::string refusal_with(const std::function<void(std::vector<uint32_t>&)>& change) {
  std::vector<uint32_t> units = chain(2, 1);
  change(units);
  return refusal(charsmap(units));
}

TEST(Charsmap, TakesPathsUpToItsLimits) {
  EXPECT_EQ(refusal(charsmap(chain(1, 1))), "");
  EXPECT_EQ(refusal(charsmap(chain(40, 32))), "");
  EXPECT_THAT(refusal(charsmap(chain(40, 33))), HasSubstr("more than 32"));
  EXPECT_EQ(refusal(charsmap(chain(256, 1))), "");
  EXPECT_THAT(refusal(charsmap(chain(257, 1))), HasSubstr("more than 256 bytes"));
  EXPECT_THAT(refusal(charsmap(chain(3000, 1))), HasSubstr("more than 256 bytes"));
}

TEST(Charsmap, RefusesATrieThatLeadsOutOfItsArray) {
  for (const uint32_t offset : {0x300u, 0x1000u, 0x3FFFFFu}) {
    EXPECT_THAT(refusal_with([&](auto& units) { units[0] = offset << 10; }), HasSubstr("outside of its array"));
  }
  const uint32_t extended = uint32_t{1} << 9; // the offset is shifted by another 8 bits
  EXPECT_THAT(
      refusal_with([&](auto& units) { units[1 ^ 'a'] = 3 << 10 | extended | 'a'; }), HasSubstr("outside of its array"));
  EXPECT_THAT(refusal(charsmap(std::vector<uint32_t>(255))), HasSubstr("outside of its array"));
}

TEST(Charsmap, RefusesACycle) {
  const auto to_itself = [](std::vector<uint32_t>& units) {
    const uint32_t index = 1 ^ 'a';
    units[index] = (index ^ 1) << 10 | 'a';
  };
  EXPECT_THAT(refusal_with(to_itself), HasSubstr("more than 256 bytes"));
  EXPECT_THAT(refusal(charsmap(std::vector<uint32_t>(256))), HasSubstr("more than 256 bytes"));
}

TEST(Charsmap, RefusesReplacementsThatAreNone) {
  EXPECT_THAT(refusal(charsmap(chain(1, 1), "")), HasSubstr("that it does not hold"));
  EXPECT_THAT(refusal(charsmap(chain(1, 1), "b")), HasSubstr("no end"));
  EXPECT_THAT(refusal(charsmap(chain(1, 1), std::string("\xC3\0", 2))), HasSubstr("not UTF-8"));
  EXPECT_EQ(refusal(charsmap(chain(1, 1), std::string(256, 'b') + '\0')), "");
  EXPECT_THAT(refusal(charsmap(chain(1, 1), std::string(257, 'b') + '\0')), HasSubstr("no end within 256 bytes"));
  EXPECT_THAT(refusal_with([](auto& units) { units[256 * 2 + 1] = kIsValue | 2; }), HasSubstr("that it does not hold"));
}

TEST(Charsmap, RefusesSizesThatDoNotFit) {
  const std::string whole = charsmap(chain(1, 1));
  for (const size_t length : {0, 3, 4, 100, 2051}) {
    EXPECT_THAT(refusal(whole.substr(0, length)), HasSubstr("cut off")) << length;
  }
  EXPECT_THAT(refusal(std::string(8, '\0')), HasSubstr("no size that is supported"));
  EXPECT_THAT(refusal(std::string("\6\0\0\0aaaaaa", 10)), HasSubstr("no size that is supported"));
}

} // namespace
} // namespace rora
