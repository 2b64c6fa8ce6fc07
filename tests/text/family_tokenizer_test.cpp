#include <rora/text/tokenizer.h>

#include "support/test_data.h"
#include "text/support.h"

#include <gtest/gtest.h>

namespace rora {
namespace {

using json = nlohmann::ordered_json;
using testing::read_test_json;
using testing::TemporaryFolder;
using testing::test_data;

/// The tokenizer.json of a family, as tests/fixtures/text/make_family_tokenizers.py puts it together.
json document_of(const json& family, const json& vocabulary) {
  json contents = json::array();
  for (const json& token : family["first"]) {
    contents.push_back(token["content"]);
  }
  contents.insert(contents.end(), vocabulary["tokens"].begin(), vocabulary["tokens"].end());
  if (family["in_vocabulary"].get<bool>()) {
    for (const json& token : family["last"]) {
      contents.push_back(token["content"]);
    }
  }
  json ids = json::object();
  for (const json& content : contents) {
    ids.emplace(content.get<std::string>(), ids.size());
  }
  json document = family["fields"];
  document["version"] = "1.0";
  document["model"] = family["model"];
  document["model"].update({{"type", "BPE"}, {"vocab", ids}, {"merges", vocabulary["merges"]}});
  for (const char* const where : {"first", "last"}) {
    for (json token : family[where]) {
      token["id"] = *ids.emplace(token["content"].get<std::string>(), ids.size()).first;
      document["added_tokens"].push_back(token);
    }
  }
  return document;
}

class FamilyTokenizer : public ::testing::Test {
 protected:
  /// Calls `check(tokenizer, family, texts)` with each family.
  template <typename Check>
  void for_each(const Check& check) {
    const json file = read_test_json(test_data("text/family_tokenizers.json"));
    for (const json& family : file["families"]) {
      SCOPED_TRACE(family["name"].get<std::string>());
      TemporaryFolder folder;
      const json& vocabulary = file[family["vocabulary"].get<std::string>()];
      testing::write_test_json(folder / "tokenizer.json", document_of(family, vocabulary));
      testing::write_test_json(folder / "tokenizer_config.json", family["config"]);
      json texts = file["texts"];
      texts.insert(texts.end(), family["texts"].begin(), family["texts"].end());
      ASSERT_EQ(family["rows"].size(), texts.size());
      check(*load_tokenizer(folder.path()), family, texts);
    }
  }
};

TEST_F(FamilyTokenizer, EncodesAndDecodesAsTheReference) {
  for_each([](const Tokenizer& tokenizer, const json& family, const json& texts) {
    const auto prefix = family["prefix"].get<std::vector<int64_t>>();
    for (size_t index = 0; index < texts.size(); ++index) {
      SCOPED_TRACE(texts[index].dump());
      const auto text = texts[index].get<std::string>();
      const json& row = family["rows"][index];
      const auto or_else = [](const json& value, const std::string& otherwise) {
        return value.is_null() ? otherwise : value.get<std::string>();
      };
      const auto ids = row[0].get<std::vector<int64_t>>();
      std::vector<int64_t> whole = prefix;
      whole.insert(whole.end(), ids.begin(), ids.end());
      const std::string decoded = or_else(row[1], text);
      EXPECT_EQ(tokenizer.encode(text, false), ids);
      EXPECT_EQ(tokenizer.encode(text), whole);
      EXPECT_EQ(tokenizer.decode(ids), decoded);
      EXPECT_EQ(tokenizer.decode(whole), or_else(row[2], tokenizer.decode(prefix) + decoded));
      EXPECT_EQ(tokenizer.decode(whole, /*skip_special_tokens=*/true), or_else(row[3], text));
    }
  });
}

TEST_F(FamilyTokenizer, KnowsTheTokensThatItsConfigNames) {
  for_each([](const Tokenizer& tokenizer, const json& family, const json&) {
    const json& config = family["config"];
    const auto id_of = [&](const char* key) {
      return config.contains(key) && config[key].is_string() ? tokenizer.token_id(config[key].get<std::string>())
                                                             : std::nullopt;
    };
    EXPECT_EQ(tokenizer.bos_id, id_of("bos_token"));
    EXPECT_EQ(tokenizer.eos_id, id_of("eos_token"));
  });
}

} // namespace
} // namespace rora
