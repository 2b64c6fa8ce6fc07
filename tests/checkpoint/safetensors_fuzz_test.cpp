#include <rora/checkpoint/safetensors.h>

#include <rora/error.h>

#include "checkpoint/support.h"
#include "support/test_data.h"

#include <ATen/ATen.h>

#include <gtest/gtest.h>

#include <fcntl.h>
#include <unistd.h>

#include <cstring>
#include <random>

namespace rora {
namespace {

/// Changes `bytes` as a hostile or unlucky hand would: other bytes, runs cut out, doubled or moved, numbers rewritten.
void mutate(std::string& bytes, size_t header_end, std::mt19937& random) {
  const auto below = [&](size_t limit) { return static_cast<size_t>(random() % limit); };
  // Tokens that lead further into the parser than random bytes do.
  static const std::vector<std::string> kTokens{
      "{",
      "}",
      "[",
      "]",
      ",",
      ":",
      "\"",
      "\\",
      "\"a\"",
      "-1",
      "18446744073709551615",
      "9223372036854775807",
      "1e999",
      "0",
      "null",
      "true",
      "\"dtype\":\"F32\"",
      "\"shape\":[0]",
      "\"__metadata__\":{}",
      "\xFF",
      "\n",
      "F64",
      "BOOL"};
  const size_t changes = 1 + below(3);
  for (size_t i = 0; i < changes; ++i) {
    const size_t at = below(std::min(header_end, bytes.size()));
    const size_t length = std::min(1 + below(16), bytes.size() - at);
    switch (below(6)) {
      case 0:
        bytes[at] = static_cast<char>(random());
        break;
      case 1:
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8)));
        break;
      case 2:
        bytes.erase(at, length);
        break;
      case 3:
        bytes.insert(at, bytes.substr(at, length));
        break;
      case 4:
        bytes.replace(at, length, kTokens[below(kTokens.size())]);
        break;
      default:
        // A digit for a digit keeps the JSON valid, so that shapes, offsets and lengths are what lies.
        for (size_t j = at; j < header_end && j < bytes.size(); ++j) {
          if (bytes[j] >= '0' && bytes[j] <= '9') {
            bytes[j] = static_cast<char>('0' + below(10));
            break;
          }
        }
    }
    if (bytes.empty()) {
      return;
    }
  }
  // Half of the time the length is that of the changed header, so that the JSON is reached.
  if (below(2) == 0 && bytes.size() >= 8) {
    const uint64_t length = below(4) == 0 ? below(bytes.size()) : bytes.find_last_of('}') - 7;
    std::memcpy(bytes.data(), &length, sizeof(length));
  }
}

TEST(SafetensorsFuzz, OpensOrRefusesWithAOneLineError) {
  const std::string original = testing::read_raw(testing::test_data("checkpoint/reference.safetensors"));
  uint64_t header_length = 0;
  std::memcpy(&header_length, original.data(), sizeof(header_length));
  const testing::TemporaryFolder folder;
  const auto path = folder / "mutated";
  std::mt19937 random(20240611);
  size_t opened = 0;
  size_t refused = 0;
  size_t past_json = 0;
  for (int round = 0; round < 4000; ++round) {
    std::string bytes = original;
    mutate(bytes, 8 + header_length, random);
    testing::write_raw(path, bytes);
    try {
      const SafetensorsFile file(path);
      for (const std::string& name : file.names()) {
        // Reads every byte, for AddressSanitizer and the kernel to judge.
        file.tensor(name).clone();
      }
      ++opened;
    } catch (const FormatError& error) {
      const std::string message = error.what();
      ++refused;
      past_json +=
          message.find("not valid JSON") == std::string::npos && message.find("header length") == std::string::npos;
      ASSERT_EQ(message.find_first_of("\n\r"), std::string::npos) << round << ": " << message;
      ASSERT_LT(message.size(), 600u) << round << ": " << message;
      ASSERT_EQ(message.rfind(path.string() + ": ", 0), 0u) << round << ": " << message;
    }
  }
  // The mutations are worth something only if they reach all three ends.
  EXPECT_GT(opened, 40u);
  EXPECT_GT(refused, 1000u);
  EXPECT_GT(past_json, 400u);
}

} // namespace
} // namespace rora
