#include "checkpoint/json.h"

#include <rora/error.h>

#include "checkpoint/support.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace rora {
namespace {

using ::testing::HasSubstr;
using testing::message_of;

std::string refusal(const std::string& text) {
  const std::string message = message_of<FormatError>([&] { detail::parse_json("some.json", text); });
  EXPECT_THAT(message, ::testing::StartsWith("some.json: "));
  return message;
}

TEST(Json, KeepsTheOrderOfKeys) {
  EXPECT_EQ(detail::parse_json("f", R"({"b": 1, "a": {"d": [], "c": 2.5}})").dump(), R"({"b":1,"a":{"d":[],"c":2.5}})");
}

TEST(Json, AllowsTheSameKeyInDifferentObjects) {
  EXPECT_NO_THROW(detail::parse_json("f", R"({"a": {"a": 1}, "b": [{"a": 1}, {"a": 2}]})"));
}

TEST(Json, RefusesKeysGivenTwice) {
  EXPECT_THAT(refusal(R"({"a": 1, "b": 2, "a": 3})"), HasSubstr("'a' is given twice"));
  EXPECT_THAT(refusal(R"([{"x": {"a": {}, "\u0061": 3}}])"), HasSubstr("'a' is given twice"));
}

TEST(Json, RefusesDeepNesting) {
  EXPECT_NO_THROW(detail::parse_json("f", std::string(64, '[') + std::string(64, ']')));
  EXPECT_THAT(refusal(std::string(65, '[') + std::string(65, ']')), HasSubstr("nested deeper than 64"));
  EXPECT_THAT(refusal(std::string(1'000'000, '[')), HasSubstr("nested deeper than 64"));
}

TEST(Json, NamesThePlaceOfWhatIsNotJson) {
  EXPECT_THAT(refusal("{\n  \"a\": ,\n}"), HasSubstr("line 2, column 8"));
  EXPECT_THAT(refusal(""), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal("{} x"), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal(std::string("{}\0{", 4)), HasSubstr("zero byte"));
  EXPECT_THAT(refusal("{\"\xFF\": 1}"), HasSubstr("UTF-8"));
  EXPECT_THAT(refusal("1e999"), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal(std::string("\"") + std::string(100'000, 'x')), HasSubstr("..."));
}

} // namespace
} // namespace rora
