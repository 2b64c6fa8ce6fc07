#include <rora/data/record.h>
#include <rora/error.h>

#include "data/data_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace rora {
namespace {

using testing::DataFile;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<Record> read(std::string_view content) {
  return read_records(DataFile(content).path());
}

/// The message for a malformed file, without the path.
std::string refusal(std::string_view content) {
  const DataFile file(content);
  const std::string message = file.message_of<FormatError>([&] { read_records(file.path()); });
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  return message;
}

TEST(Records, ReadsEveryKindInOneArray) {
  const auto records = read(R"([
    {"instruction": "Add.", "input": "1 2", "output": "3", "answer": "3", "source": [1]},
    {"instruction": "Greet.", "output": "Hi", "answer": 4.0},
    {"prompt": "p", "completion": "c"},
    {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"},
                  {"role": "assistant", "content": "a"}]},
    {"text": "t"},
    {"input_ids": [1, 2], "labels": [-100, 2]},
    {"input_ids": [3]}])");
  ASSERT_EQ(records.size(), 7u);
  EXPECT_EQ(records[0].kind, RecordKind::kCompletion);
  EXPECT_EQ(records[0].prompt, "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n");
  EXPECT_EQ(records[0].completion, "3");
  EXPECT_EQ(records[0].answer, "3");
  EXPECT_EQ(records[1].prompt, "### Instruction:\nGreet.\n\n### Response:\n");
  EXPECT_EQ(records[1].answer, "4.0");
  EXPECT_EQ(records[2].kind, RecordKind::kCompletion);
  EXPECT_EQ(records[2].prompt, "p");
  EXPECT_EQ(records[2].completion, "c");
  EXPECT_FALSE(records[2].answer);
  EXPECT_EQ(records[3].kind, RecordKind::kChat);
  ASSERT_EQ(records[3].messages.size(), 3u);
  EXPECT_EQ(records[3].messages[2].role, "assistant");
  EXPECT_EQ(records[3].messages[2].content, "a");
  EXPECT_EQ(records[4].kind, RecordKind::kText);
  EXPECT_EQ(records[4].completion, "t");
  EXPECT_EQ(records[5].kind, RecordKind::kTokenized);
  EXPECT_THAT(records[5].input_ids, ElementsAre(1, 2));
  EXPECT_THAT(records[5].labels, ElementsAre(-100, 2));
  EXPECT_THAT(records[6].labels, ElementsAre(3));
  EXPECT_EQ(records[6].place(), "record 7");
}

TEST(Records, ReadsLinesWithBlankOnesCarriageReturnsAndByteOrderMark) {
  const auto records = read("\xEF\xBB\xBF\r\n{\"text\": \"a\\nb\"}\r\n\n  \n{\"text\": \"\xC3\xA9\"}");
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[0].completion, "a\nb");
  EXPECT_EQ(records[0].place(), "record 1 (line 2)");
  EXPECT_EQ(records[1].completion, "\xC3\xA9");
  EXPECT_EQ(records[1].place(), "record 2 (line 5)");
}

TEST(Records, ReadsAnArrayBehindAByteOrderMark) {
  EXPECT_EQ(read("\xEF\xBB\xBF [{\"text\": \"a\"}]\n").size(), 1u);
}

TEST(Records, TakesTheFirstOfSeveralKinds) {
  const auto records = read(R"([
    {"text": "t", "instruction": "i", "output": "o"},
    {"text": "t", "input_ids": [1]},
    {"text": "t", "instruction": "i"},
    {"text": "t", "messages": null, "prompt": "p", "completion": "c"}])");
  EXPECT_EQ(records[0].completion, "o");
  EXPECT_EQ(records[1].kind, RecordKind::kTokenized);
  EXPECT_EQ(records[2].completion, "t");
  EXPECT_EQ(records[3].completion, "c");
}

TEST(Records, TakesNullForAbsent) {
  const auto records = read(R"([{"instruction": "i", "input": null, "output": "o", "input_ids": null},
                                {"input_ids": [7], "labels": null}])");
  EXPECT_EQ(records[0].prompt, "### Instruction:\ni\n\n### Response:\n");
  EXPECT_THAT(records[1].labels, ElementsAre(7));
}

TEST(Records, RefusesARecordOfNoKind) {
  const std::string expected =
      "expected the keys `instruction` and `output`, `prompt` and `completion`, `messages`, `conversations`, `text` or "
      "`input_ids`, ";
  EXPECT_EQ(
      refusal(R"([{"text": "t"}, {"answer": 1, "x\ny": 2}])"), "record 2: " + expected + "found 'answer', 'x\\x0ay'");
  EXPECT_EQ(refusal("{}\n"), "record 1 (line 1): " + expected + "found none");
  EXPECT_EQ(refusal("[3]"), "record 1: expected an object, found 3");
  EXPECT_EQ(refusal("{\"text\": \"\"}\n\"t\""), "record 2 (line 2): expected an object, found a string");
}

TEST(Records, RefusesMissingFieldsAndFieldsOfAnotherType) {
  const auto of = [](const std::string& record) { return refusal("[" + record + "]"); };
  EXPECT_EQ(of(R"({"instruction": "i"})"), "record 1: field `output`: expected a string, found none");
  EXPECT_EQ(of(R"({"instruction": 1, "output": "o"})"), "record 1: field `instruction`: expected a string, found 1");
  EXPECT_EQ(
      of(R"({"instruction": "i", "input": [], "output": "o"})"),
      "record 1: field `input`: expected a string, found an array");
  EXPECT_EQ(of(R"({"instruction": "i", "output": null})"), "record 1: field `output`: expected a string, found null");
  EXPECT_EQ(of(R"({"prompt": "p"})"), "record 1: field `completion`: expected a string, found none");
  EXPECT_EQ(
      of(R"({"prompt": "p", "completion": true})"), "record 1: field `completion`: expected a string, found true");
  EXPECT_EQ(of(R"({"text": {}})"), "record 1: field `text`: expected a string, found an object");
}

TEST(Records, RefusesMalformedMessages) {
  const auto of = [](const std::string& messages) { return refusal("{\"messages\": " + messages + "}"); };
  EXPECT_EQ(of("\"hi\""), "record 1 (line 1): field `messages`: expected an array, found a string");
  EXPECT_EQ(of("[1]"), "record 1 (line 1): field `messages[0]`: expected an object, found 1");
  EXPECT_EQ(of(R"([{"content": "c"}])"), "record 1 (line 1): field `messages[0].role`: expected a string, found none");
  EXPECT_EQ(
      of(R"([{"role": "user", "content": null}])"),
      "record 1 (line 1): field `messages[0].content`: expected a string, found null");
}

TEST(Records, ReadsShareGptsConversations) {
  const auto records = read(R"([{"system": "s", "conversations": [
    {"from": "human", "value": "u"}, {"from": "gpt", "value": "a", "weight": 1}, {"from": "tool", "value": "t"}]}])");
  ASSERT_EQ(records[0].messages.size(), 4u);
  EXPECT_EQ(records[0].kind, RecordKind::kChat);
  const char* const roles[] = {"system", "user", "assistant", "tool"};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(records[0].messages[i].role, roles[i]);
  }
  EXPECT_EQ(records[0].messages[2].content, "a");
  EXPECT_EQ(records[0].messages[2].fields, R"({"weight":1})");
  EXPECT_EQ(
      refusal(R"([{"conversations": [{"from": "narrator", "value": "x"}]}])"),
      "record 1: field `conversations[0].from`: expected human, gpt, system or tool, found 'narrator'");
}

TEST(Records, KeepsWhatElseAMessageHas) {
  const auto records = read(
      R"([{"messages": [{"role": "user", "content": [{"type": "text", "text": "u"}], "name": "n"},
                       {"role": "assistant", "tool_calls": [1]}], "tools": "[{\"b\": 1, \"a\": 2}]"}])");
  EXPECT_EQ(records[0].messages[0].fields, R"({"content":[{"type":"text","text":"u"}],"name":"n"})");
  EXPECT_EQ(records[0].messages[1].fields, R"({"content":null,"tool_calls":[1]})");
  EXPECT_EQ(records[0].tools, R"([{"b":1,"a":2}])");
}

TEST(Records, ReadsPromptsAndCompletionsOfMessages) {
  const auto records = read(
      R"([{"prompt": [{"role": "user", "content": "u"}], "completion": [{"role": "assistant", "content": "a"}]}])");
  EXPECT_EQ(records[0].kind, RecordKind::kChat);
  EXPECT_EQ(records[0].messages.size(), 2u);
  EXPECT_EQ(records[0].prompt_messages, 1u);
}

TEST(Records, ReadsColumnsByOtherNames) {
  const DataFile file(R"([{"question": "q", "answer": "a", "prompt": "unused", "label": 1}])");
  const auto records = read_records(file.path(), {{"prompt", "question"}, {"completion", "answer"}});
  EXPECT_EQ(records[0].prompt, "q");
  EXPECT_EQ(records[0].completion, "a");
  EXPECT_EQ(
      file.message_of<FormatError>([&] {
        read_records(file.path(), {{"text", "body"}});
      }),
      "record 1: expected the column 'body', which is to be `text`");
}

TEST(Records, UsesASystemFieldOrRefusesIt) {
  EXPECT_EQ(read(R"([{"prompt": "p", "completion": "c", "system": "s"}])")[0].prompt, "s\n\np");
  EXPECT_EQ(read(R"([{"prompt": "p", "completion": "c", "system": ""}])")[0].prompt, "p");
  EXPECT_EQ(
      refusal(R"([{"text": "t", "system": "s"}])"),
      "record 1: field `system`: only chats, prompts and instructions have a place for it");
  EXPECT_EQ(
      refusal(R"([{"messages": [{"role": "system", "content": "a"}], "system": "s"}])"),
      "record 1: field `system`: the first message is a system message already");
}

TEST(Records, RefusesMoreMessagesThanAChatHas) {
  std::string messages = R"({"role": "user", "content": "c"})";
  for (int i = 1; i < 1024; ++i) {
    messages += R"(,{"role": "assistant", "content": "c"})";
  }
  EXPECT_EQ(read("{\"messages\": [" + messages + "]}")[0].messages.size(), 1024u);
  EXPECT_EQ(
      refusal("{\"messages\": [" + messages + ",1]}"),
      "record 1 (line 1): field `messages`: expected at most 1024, found 1025");
}

TEST(Records, RefusesIdsAndLabelsThatAreNone) {
  const auto of = [](const std::string& fields) { return refusal("[{" + fields + "}]"); };
  EXPECT_EQ(of(R"("input_ids": "1 2")"), "record 1: field `input_ids`: expected an array of integers, found a string");
  EXPECT_EQ(of(R"("input_ids": [1, 2.0])"), "record 1: field `input_ids[1]`: expected an integer, found 2.0");
  EXPECT_EQ(of(R"("input_ids": ["1"])"), "record 1: field `input_ids[0]`: expected an integer, found a string");
  EXPECT_EQ(
      of(R"("input_ids": [18446744073709551615])"),
      "record 1: field `input_ids[0]`: expected an integer, found 18446744073709551615");
  EXPECT_EQ(of(R"("input_ids": [1, -1])"), "record 1: field `input_ids[1]`: expected an id of at least 0, found -1");
  EXPECT_EQ(
      of(R"("input_ids": [1, 2], "labels": [1])"),
      "record 1: field `labels`: expected as many as `input_ids`, 2, found 1");
  EXPECT_EQ(of(R"("input_ids": [1], "labels": [-1])"), "record 1: field `labels[0]`: expected an id or -100, found -1");
  EXPECT_EQ(
      of(R"("input_ids": [1], "labels": {})"),
      "record 1: field `labels`: expected an array of integers, found an object");
}

TEST(Records, RefusesMalformedJsonWithItsPlace) {
  EXPECT_THAT(refusal("[{\"text\": \"a\"},\n {\"text\": }]"), HasSubstr("line 2, column 11: malformed JSON: "));
  EXPECT_THAT(refusal("{\"text\": \"a\"}\n{\"text\": \"b\"\n"), HasSubstr("line 2, column 13: malformed JSON: "));
  EXPECT_THAT(refusal("[{\"text\": \"a\"}"), HasSubstr("line 1, column 15: malformed JSON: "));
  EXPECT_THAT(refusal("[{\"text\": \"a\"}] x"), HasSubstr("line 1, column 17: malformed JSON: "));
  EXPECT_THAT(refusal("{\"text\": \"a\"} {\"text\": \"b\"}"), HasSubstr("line 1, column 15: malformed JSON: "));
  EXPECT_THAT(refusal("plain text\n"), HasSubstr("line 1, column 1: malformed JSON: "));
  EXPECT_THAT(refusal("{\"text\": \"\\ud800\"}"), HasSubstr("line 1, column "));
  EXPECT_THAT(refusal("{\"input_ids\": [1e999]}"), HasSubstr("line 1: malformed JSON: number overflow"));
}

TEST(Records, RefusesWhatIsNotUtf8WithItsLine) {
  EXPECT_EQ(refusal("{\"text\": \"a\"}\n{\"text\": \"\xFF\"}"), "line 2: expected UTF-8, found the byte 0xff");
  for (const char* bytes : {"\xC0\x80", "\xE0\x80\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xE2\x82", "\x80"}) {
    EXPECT_THAT(refusal("[{\"text\": \"" + std::string(bytes) + "\"}]"), HasSubstr("line 1: expected UTF-8")) << bytes;
  }
  EXPECT_EQ(read("[{\"text\": \"\xF4\x8F\xBF\xBF\xEF\xBF\xBF\xE0\xA0\x80\"}]").size(), 1u);
}

TEST(Records, RefusesAZeroByteAndWhatFollowsIt) {
  EXPECT_EQ(refusal(std::string_view("{\"text\": \"a\"}\n\0junk", 19)), "line 2: malformed JSON: a zero byte");
}

TEST(Records, RefusesAnEmptyFile) {
  EXPECT_EQ(refusal(""), "expected records, found an empty file");
  EXPECT_EQ(refusal(" \n\n"), "expected records, found an empty file");
  EXPECT_EQ(refusal("\xEF\xBB\xBF"), "expected records, found an empty file");
  EXPECT_EQ(refusal("[]"), "expected records, found an empty array");
}

TEST(Records, RefusesDeepNestingWithoutOverflowingTheStack) {
  const std::string deep = std::string(200000, '[') + std::string(200000, ']');
  EXPECT_EQ(refusal(deep), "line 1: JSON is nested deeper than 64 levels");
  EXPECT_EQ(refusal("\n{\"text\": " + deep + "}"), "line 2: JSON is nested deeper than 64 levels");
  EXPECT_THAT(refusal(std::string(200000, '[')), HasSubstr("malformed JSON: the array has no end"));
}

TEST(Records, RefusesARecordThatIsTooLong) {
  const auto record = [](size_t bytes) { return "{\"text\": \"" + std::string(bytes - 12, 'x') + "\"}"; };
  constexpr size_t kLimit = size_t{16} << 20;
  EXPECT_EQ(read(record(kLimit))[0].completion.size(), kLimit - 12);
  EXPECT_EQ(
      refusal("{\"text\": \"a\"}\n" + record(kLimit + 1)),
      "record 2 (line 2): expected at most 16777216 bytes, found 16777217");
  EXPECT_EQ(refusal("[" + record(kLimit + 1) + "]"), "record 1: expected at most 16777216 bytes, found 16777217");
}

TEST(Records, RefusesAKeyGivenTwice) {
  EXPECT_EQ(refusal("{\"text\": \"a\"}\n{\"text\": \"a\", \"text\": \"b\"}"), "line 2: JSON key 'text' is given twice");
}

TEST(Records, CutsAnArrayApartWhereItsElementsEnd) {
  const auto records = read(R"([{"text": "a],[\\"}, {"text": "\"]\\\"", "x": [[1, 2], {"y": "}"}]} , {"text": "b"} ])");
  ASSERT_EQ(records.size(), 3u);
  EXPECT_EQ(records[0].completion, "a],[\\");
  EXPECT_EQ(records[1].completion, "\"]\\\"");
  EXPECT_EQ(records[2].completion, "b");
  for (const char* malformed : {"[{\"text\": \"a\"},]", "[,]", "[{\"text\": \"a\"}}]", "[{\"text\": [}]", "[\"\\\"]"}) {
    EXPECT_THAT(refusal(malformed), HasSubstr("malformed JSON")) << malformed;
  }
}

TEST(Records, RefusesMessagesThatAreNotToBeTrainedOn) {
  const auto chat_with = [](const std::string& field) {
    const std::string begin =
        R"([{"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a", )";
    return begin + field + "}]}]";
  };
  EXPECT_THAT(refusal(chat_with(R"("weight": 0)")), HasSubstr("field `messages[1].weight`: expected 1 or none"));
  EXPECT_THAT(refusal(chat_with(R"("train": false)")), HasSubstr("field `messages[1].train`: expected true or none"));
  EXPECT_THAT(refusal(chat_with(R"("training": false)")), HasSubstr("field `messages[1].training`: expected true or"));
  EXPECT_THAT(refusal(chat_with(R"("loss": false)")), HasSubstr("field `messages[1].loss`: expected true or none"));
  EXPECT_THAT(refusal(chat_with(R"("mask": true)")), HasSubstr("field `messages[1].mask`: expected false or none"));
  EXPECT_EQ(read(chat_with(R"("weight": 1, "train": true, "mask": false, "loss": 1)")).size(), 1u);
}

TEST(Records, RefusesFieldsThatAskForMoreThanIsDone) {
  const std::string chat = R"("messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}])";
  const std::string instruction = R"("instruction": "i", "output": "o")";
  const std::string tools = R"("tools": [{"name": "add"}])";
  const auto refusal_of = [](const std::string& record, const std::string& field) {
    return refusal("[{" + record + ", " + field + "}]");
  };
  EXPECT_THAT(
      refusal_of(chat, R"("chat_template_kwargs": {"enable_thinking": false})"),
      HasSubstr("field `chat_template_kwargs`: expected none"));
  EXPECT_THAT(refusal_of(chat, R"("documents": [{"text": "t"}])"), HasSubstr("field `documents`: expected none"));
  EXPECT_THAT(refusal_of(instruction, R"("history": [["a", "b"]])"), HasSubstr("field `history`: expected none"));
  EXPECT_THAT(refusal_of(instruction, tools), HasSubstr("field `tools`: expected none"));
  EXPECT_THAT(refusal_of(R"("prompt": "p", "completion": "c")", tools), HasSubstr("field `tools`: expected none"));
  EXPECT_EQ(read("[{" + chat + R"(, "documents": [], "chat_template_kwargs": null}])").size(), 1u);
  EXPECT_EQ(read("[{" + instruction + R"(, "history": [], "tools": []}])").size(), 1u);
  EXPECT_EQ(read("[{" + instruction + R"(, "history": "", "tools": "[]"}])").size(), 1u);
  EXPECT_EQ(read(R"([{"text": "t", "documents": [1], "history": [1], "tools": [1]}])").size(), 1u) << "a column";
}

TEST(Records, RefusesAMaskThatHidesTokens) {
  EXPECT_EQ(read(R"([{"input_ids": [1, 2], "attention_mask": [1, 1]}])").size(), 1u);
  for (const char* mask : {"[1, 0]", "[1]", "[1, 1, 1]"}) {
    EXPECT_THAT(
        refusal(R"([{"input_ids": [1, 2], "attention_mask": )" + std::string(mask) + "}]"),
        HasSubstr("field `attention_mask`: expected a 1 for each of `input_ids`"));
  }
}

TEST(Records, RefusesColumnsForKeysThatThereAreNot) {
  const DataFile file(R"([{"instruction": "i", "context": "c", "output": "o"}])");
  EXPECT_EQ(read_records(file.path(), {{"input", "context"}})[0].messages[0].content, "i\n\nc");
  EXPECT_THROW(read_records(file.path(), {{"inptu", "context"}}), c10::ValueError);
}

TEST(Records, RefusesAFileThatIsNotThere) {
  const DataFile file("");
  EXPECT_THROW(read_records(file.path().parent_path() / "none.json"), FileError);
}

} // namespace
} // namespace rora
