#include <rora/checkpoint/safetensors.h>

#include <rora/error.h>

#include "checkpoint/support.h"
#include "support/test_data.h"

#include <ATen/ATen.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

namespace rora {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::message_of;
using testing::safetensors_bytes;
using testing::TemporaryFolder;

/// The FormatError of a file of these bytes.
std::string refusal(const std::string& bytes) {
  const TemporaryFolder folder;
  testing::write_raw(folder / "bad.safetensors", bytes);
  const std::string message = message_of<FormatError>([&] { SafetensorsFile(folder / "bad.safetensors"); });
  EXPECT_THAT(message, HasSubstr("bad.safetensors: "));
  return message;
}

std::string refusal(const std::string& header, size_t data_bytes) {
  return refusal(safetensors_bytes(header, data_bytes));
}

/// The FormatError of a file with one tensor 'a' of these fields and 8 bytes of data.
std::string tensor_refusal(const std::string& fields) {
  const std::string message = refusal(std::string("{\"a\":{") + fields + "}}", 8);
  EXPECT_THAT(message, HasSubstr("tensor 'a': "));
  return message;
}

std::string with_length(uint64_t length, const std::string& rest) {
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  return bytes + rest;
}

TEST(SafetensorsMalformed, TheUnbrokenFileOpens) {
  const TemporaryFolder folder;
  testing::write_raw(
      folder / "good", safetensors_bytes(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8));
  EXPECT_EQ(SafetensorsFile(folder / "good").names().size(), 1u);
}

TEST(SafetensorsMalformed, RefusesFilesShorterThanTheHeaderLength) {
  EXPECT_THAT(refusal(""), HasSubstr("8 bytes of the header length, found 0"));
  EXPECT_THAT(refusal("1234567"), HasSubstr("found 7"));
}

TEST(SafetensorsMalformed, RefusesHeaderLengthsThatLie) {
  EXPECT_THAT(refusal(with_length(0, "")), HasSubstr("'{'"));
  EXPECT_THAT(refusal(with_length(0, "{}")), HasSubstr("'{'"));
  EXPECT_THAT(refusal(with_length(3, "{}")), HasSubstr("header length 3 is over the 2 bytes"));
  EXPECT_THAT(refusal(with_length(100'000'000, "{}")), HasSubstr("is over the 2 bytes"));
  EXPECT_THAT(refusal(with_length(100'000'001, "{}")), HasSubstr("limit of 100000000"));
  EXPECT_THAT(refusal(with_length(~uint64_t{0}, "{}")), HasSubstr("limit of 100000000"));
  EXPECT_THAT(refusal(with_length(~uint64_t{0} - 7, "{}")), HasSubstr("limit of 100000000"));
}

TEST(SafetensorsMalformed, RefusesALongHeaderEvenIfTheFileIsLonger) {
  const TemporaryFolder folder;
  testing::write_raw(folder / "sparse", with_length(100'000'001, "{}"));
  std::filesystem::resize_file(folder / "sparse", 200'000'000);
  EXPECT_THAT(message_of<FormatError>([&] { SafetensorsFile(folder / "sparse"); }), HasSubstr("limit of 100000000"));
}

TEST(SafetensorsMalformed, RefusesWhatIsNotAJsonObject) {
  for (const char* header :
       {"[]", "1", "null", "\"a\"", " {}", "\xEF\xBB\xBF{}", "{", "{}}", "{} {}", "{]", "{\"a\"}", "{\"a\":}", "{,}",
        "{\"a\":1e999}", "{\"\\ud800\":{}}", "{/**/}", "{\"a\":NaN}"}) {
    EXPECT_THAT(refusal(header, 0), HasSubstr("header")) << header;
  }
  EXPECT_THAT(refusal("{\"\xFF\":{}}", 0), HasSubstr("UTF-8"));
  EXPECT_THAT(refusal(std::string("{}\0\0", 4), 0), HasSubstr("zero byte at offset 2"));
  EXPECT_THAT(refusal("{\n\n}x", 0), HasSubstr("line 3"));
}

TEST(SafetensorsMalformed, RefusesDeepNestingAtItsFirstWrongLevel) {
  std::string deep = "{\"a\":{\"shape\":";
  deep.append(1'000'000, '[');
  EXPECT_THAT(refusal(deep, 0), HasSubstr("tensor 'a': shape: expected integers from 0 to 2^63-1, found an array"));
  std::string objects;
  for (int i = 0; i < 100'000; ++i) {
    objects += "{\"a\":";
  }
  EXPECT_THAT(refusal(objects, 0), HasSubstr("unknown field 'a'"));
}

TEST(SafetensorsMalformed, RefusesKeysGivenTwice) {
  const std::string tensor = R"({"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  EXPECT_THAT(
      refusal(std::string("{\"a\":") + tensor + ",\"a\":" + tensor + "}", 0), HasSubstr("tensor 'a' is given twice"));
  EXPECT_THAT(
      refusal(std::string("{\"a\":") + tensor + ",\"\\u0061\":" + tensor + "}", 0), HasSubstr("'a' is given twice"));
  EXPECT_THAT(refusal(R"({"__metadata__":{},"__metadata__":{}})", 0), HasSubstr("__metadata__ is given twice"));
  EXPECT_THAT(refusal(R"({"__metadata__":{"k":"1","k":"2"}})", 0), HasSubstr("'k' is given twice"));
  EXPECT_THAT(
      tensor_refusal(R"("dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8])"),
      HasSubstr("'dtype' is given twice"));
}

TEST(SafetensorsMalformed, RefusesMetadataThatIsNotStrings) {
  EXPECT_THAT(refusal(R"({"__metadata__":[]})", 0), HasSubstr("__metadata__: expected an object, found an array"));
  EXPECT_THAT(refusal(R"({"__metadata__":null})", 0), HasSubstr("__metadata__: expected an object, found null"));
  for (const char* value : {"1", "-1", "1.5", "null", "true", "{}", "[]"}) {
    EXPECT_THAT(
        refusal(std::string("{\"__metadata__\":{\"k\":") + value + "}}", 0),
        HasSubstr("__metadata__: 'k': expected a string, found"))
        << value;
  }
}

TEST(SafetensorsMalformed, RefusesFieldsThatAreMissingOrUnknown) {
  EXPECT_THAT(tensor_refusal(R"("shape":[2],"data_offsets":[0,8])"), HasSubstr("dtype is missing"));
  EXPECT_THAT(tensor_refusal(R"("dtype":"F32","data_offsets":[0,8])"), HasSubstr("shape is missing"));
  EXPECT_THAT(tensor_refusal(R"("dtype":"F32","shape":[2])"), HasSubstr("data_offsets is missing"));
  EXPECT_THAT(
      tensor_refusal(R"("dtype":"F32","shape":[2],"data_offsets":[0,8],"scale":"1")"),
      HasSubstr("unknown field 'scale'"));
  EXPECT_THAT(refusal(R"({"a":[0,8]})", 8), HasSubstr("tensor 'a': expected an object, found an array"));
}

TEST(SafetensorsMalformed, RefusesDtypes) {
  EXPECT_THAT(
      tensor_refusal(R"("dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8])"),
      AllOf(HasSubstr("dtype 'F8_E4M3' is not supported"), HasSubstr("BF16")));
  EXPECT_THAT(tensor_refusal(R"("dtype":"f32","shape":[2],"data_offsets":[0,8])"), HasSubstr("dtype 'f32'"));
  EXPECT_THAT(
      tensor_refusal(R"("dtype":32,"shape":[2],"data_offsets":[0,8])"),
      HasSubstr("dtype: expected a string, found 32"));
  const std::string message = tensor_refusal(
      std::string("\"dtype\":\"") + std::string(100'000, 'F') + "\",\"shape\":[2],\"data_offsets\":[0,8]");
  EXPECT_THAT(message, HasSubstr("FFF..."));
}

TEST(SafetensorsMalformed, RefusesShapes) {
  const auto shape_refusal = [](const std::string& shape) {
    return tensor_refusal(std::string("\"dtype\":\"F32\",\"shape\":") + shape + ",\"data_offsets\":[0,8]");
  };
  EXPECT_THAT(shape_refusal("[-2]"), HasSubstr("shape: expected integers from 0 to 2^63-1, found -2"));
  EXPECT_THAT(shape_refusal("[2.0]"), HasSubstr("found 2.0"));
  EXPECT_THAT(shape_refusal("[\"2\"]"), HasSubstr("found the string '2'"));
  EXPECT_THAT(shape_refusal("[true]"), HasSubstr("found true"));
  EXPECT_THAT(shape_refusal("2"), HasSubstr("shape: expected an array, found 2"));
  EXPECT_THAT(shape_refusal("{}"), HasSubstr("shape: expected an array, found an object"));
  EXPECT_THAT(shape_refusal("[9223372036854775808]"), HasSubstr("found 9223372036854775808"));
  EXPECT_THAT(shape_refusal("[99999999999999999999]"), HasSubstr("found 99999999999999999999"));
  EXPECT_THAT(shape_refusal("[3]"), HasSubstr("dtype and shape need 12 bytes, data_offsets give 8"));
  EXPECT_THAT(shape_refusal("[]"), HasSubstr("dtype and shape need 4 bytes, data_offsets give 8"));
  EXPECT_THAT(shape_refusal("[0]"), HasSubstr("dtype and shape need 0 bytes, data_offsets give 8"));
  // 2^32 · 2^32 · 4 bytes and 2^62 · 4 bytes are 0 modulo 2^64, and 2^61 · 8 + 8 is 8.
  EXPECT_THAT(shape_refusal("[4294967296,4294967296]"), HasSubstr("shape overflows"));
  EXPECT_THAT(shape_refusal("[4611686018427387904]"), HasSubstr("shape overflows"));
  EXPECT_THAT(shape_refusal("[0,4611686018427387904,4611686018427387904]"), HasSubstr("shape overflows"));
  std::string ones = "[2";
  for (int i = 0; i < 64; ++i) {
    ones += ",1";
  }
  EXPECT_THAT(shape_refusal(ones + "]"), HasSubstr("shape: more than 64 numbers"));
}

TEST(SafetensorsMalformed, RefusesOffsets) {
  const auto offset_refusal = [](const std::string& offsets) {
    return tensor_refusal(std::string("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":") + offsets);
  };
  EXPECT_THAT(offset_refusal("[0]"), HasSubstr("data_offsets: expected 2 numbers, found 1"));
  EXPECT_THAT(offset_refusal("[0,4,8]"), HasSubstr("data_offsets: expected 2 numbers, found 3"));
  EXPECT_THAT(offset_refusal("[8,0]"), HasSubstr("begin 8 is beyond end 0"));
  EXPECT_THAT(offset_refusal("[0,16]"), HasSubstr("ends at byte 16, but the file holds 8"));
  EXPECT_THAT(offset_refusal("[9223372036854775800,9223372036854775807]"), HasSubstr("but the file holds 8"));
  EXPECT_THAT(offset_refusal("[-8,0]"), HasSubstr("found -8"));
  EXPECT_THAT(offset_refusal("[0,18446744073709551615]"), HasSubstr("found 18446744073709551615"));
}

std::string bytes_entry(const std::string& name, int begin, int end) {
  return std::string("\"") + name + "\":{\"dtype\":\"U8\",\"shape\":[" + std::to_string(end - begin) +
      "],\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(end) + "]}";
}

TEST(SafetensorsMalformed, RefusesOverlappingTensors) {
  EXPECT_THAT(
      refusal(std::string("{") + bytes_entry("a", 0, 5) + "," + bytes_entry("b", 4, 8) + "}", 8),
      HasSubstr("tensor 'b': data starts at byte 4 and overlaps tensor 'a', which ends at byte 5"));
  EXPECT_THAT(
      refusal(std::string("{") + bytes_entry("a", 0, 8) + "," + bytes_entry("b", 0, 8) + "}", 8),
      HasSubstr("overlaps"));
  EXPECT_THAT(
      refusal(std::string("{") + bytes_entry("a", 0, 8) + "," + bytes_entry("b", 4, 4) + "}", 8),
      HasSubstr("overlaps"));
}

TEST(SafetensorsMalformed, RefusesHoles) {
  EXPECT_THAT(
      refusal(std::string("{") + bytes_entry("a", 0, 3) + "," + bytes_entry("b", 4, 8) + "}", 8),
      HasSubstr("tensor 'b': data starts at byte 4 and leaves a hole after byte 3"));
  EXPECT_THAT(
      refusal(std::string("{") + bytes_entry("a", 1, 8) + "}", 8), HasSubstr("tensor 'a': data starts at byte 1"));
}

TEST(SafetensorsMalformed, RefusesBytesAfterTheLastTensor) {
  EXPECT_THAT(refusal(std::string("{") + bytes_entry("a", 0, 7) + "}", 8), HasSubstr("end at byte 7 of the data"));
  EXPECT_THAT(refusal("{}", 1), HasSubstr("end at byte 0 of the data"));
}

TEST(SafetensorsMalformed, RefusesEveryTruncation) {
  const std::string whole = testing::read_raw(testing::test_data("checkpoint/reference.safetensors"));
  const TemporaryFolder folder;
  for (size_t size = 0; size < whole.size(); ++size) {
    testing::write_raw(folder / "bad", whole.substr(0, size));
    EXPECT_NE(message_of<FormatError>([&] { SafetensorsFile(folder / "bad"); }), "") << size;
  }
}

TEST(SafetensorsMalformed, RefusesBoolsThatAreNeitherZeroNorOne) {
  const TemporaryFolder folder;
  std::string bytes = safetensors_bytes(R"({"a":{"dtype":"BOOL","shape":[2],"data_offsets":[0,2]}})", 2);
  bytes.back() = 2;
  testing::write_raw(folder / "bad", bytes);
  EXPECT_THAT(message_of<FormatError>([&] { SafetensorsFile(folder / "bad").tensor("a"); }), HasSubstr("tensor 'a'"));
}

TEST(SafetensorsMalformed, MessagesStayOnOneLineWhateverTheNames) {
  EXPECT_THAT(refusal(R"({"a\nb\u001b":1})", 0), HasSubstr("tensor 'a\\x0ab\\x1b'"));
  EXPECT_THAT(refusal(std::string("{\"") + std::string(100'000, 'n') + "\":1}", 0), HasSubstr("nnn...'"));
}

TEST(SafetensorsMalformed, RefusesWhatIsNotARegularFile) {
  const TemporaryFolder folder;
  EXPECT_THAT(message_of<FileError>([&] { SafetensorsFile(folder / "absent"); }), HasSubstr("No such file"));
  EXPECT_THAT(message_of<FileError>([&] { SafetensorsFile(folder.path()); }), HasSubstr("is a folder"));
  ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_THAT(message_of<FileError>([&] { SafetensorsFile(folder / "pipe"); }), HasSubstr("not a regular file"));
  std::filesystem::create_symlink("absent", folder / "dangling");
  EXPECT_THAT(message_of<FileError>([&] { SafetensorsFile(folder / "dangling"); }), HasSubstr("No such file"));
}

TEST(SafetensorsMalformed, RefusesAFileThatMayNotBeRead) {
  const TemporaryFolder folder;
  std::filesystem::permissions(folder.path(), std::filesystem::perms::all);
  save_safetensors(folder / "weights", {{"a", at::ones({2})}});
  std::filesystem::permissions(folder / "weights", std::filesystem::perms::none);
  const testing::WithoutPrivileges unprivileged;
  EXPECT_THAT(message_of<FileError>([&] { SafetensorsFile(folder / "weights"); }), HasSubstr("Permission denied"));
}

} // namespace
} // namespace rora
