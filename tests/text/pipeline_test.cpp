#include <rora/text/tokenizer.h>

#include "support/test_data.h"
#include "text/support.h"

#include <gtest/gtest.h>

namespace rora {
namespace {

using testing::expect_rows;
using testing::read_test_json;
using testing::TemporaryFolder;
using testing::test_data;

/// Replaces whole fields of a tokenizer.json, and those that are given of its model.
void apply(const nlohmann::ordered_json& changes, nlohmann::ordered_json& document) {
  for (const auto& [field, value] : changes.items()) {
    if (field == "model") {
      document[field].update(value);
    } else {
      document[field] = value;
    }
  }
}

TEST(JsonTokenizer, RunsEveryComponentAsTheReference) {
  for (const auto& pipeline : read_test_json(test_data("text/pipelines.json"))) {
    SCOPED_TRACE(pipeline["name"].get<std::string>());
    auto document = read_test_json(test_data("text") / pipeline["base"].get<std::string>() / "tokenizer.json");
    apply(pipeline["changes"], document);
    TemporaryFolder folder;
    testing::write_test_json(folder / "tokenizer.json", document);
    expect_rows(*load_tokenizer(folder.path()), pipeline["rows"]);
  }
}

} // namespace
} // namespace rora
