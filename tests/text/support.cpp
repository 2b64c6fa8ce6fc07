#include "text/support.h"

#include <rora/checkpoint/file.h>
#include <rora/error.h>

#include <gtest/gtest.h>

namespace rora::testing {

nlohmann::ordered_json read_test_json(const std::filesystem::path& path) {
  return nlohmann::ordered_json::parse(read_file(path));
}

void write_test_json(const std::filesystem::path& path, const nlohmann::ordered_json& document) {
  write_file(path, document.dump());
}

void expect_rows(const Tokenizer& tokenizer, const nlohmann::ordered_json& rows) {
  ASSERT_FALSE(rows.empty());
  for (const auto& row : rows) {
    SCOPED_TRACE(row["text"].dump());
    const auto text = row["text"].get<std::string>();
    const auto ids = row["ids"].get<std::vector<int64_t>>();
    EXPECT_EQ(tokenizer.encode(text), ids);
    EXPECT_EQ(tokenizer.decode(ids), row["decoded"].get<std::string>());
    if (row.contains("ids_without_special")) {
      EXPECT_EQ(tokenizer.encode(text, false), row["ids_without_special"].get<std::vector<int64_t>>());
    }
    if (row.contains("decoded_without_special")) {
      EXPECT_EQ(tokenizer.decode(tokenizer.encode(text, false)), row["decoded_without_special"].get<std::string>());
    }
  }
}

std::string refusal(const std::filesystem::path& folder, TokenizerKind kind) {
  try {
    load_tokenizer(folder, kind);
  } catch (const FormatError& error) {
    const std::string line = error.what();
    EXPECT_EQ(line.find('\n'), std::string::npos) << line;
    EXPECT_TRUE(line.starts_with(folder.string())) << line;
    return line.substr(std::min(line.size(), folder.string().size()));
  }
  return "";
}

} // namespace rora::testing
