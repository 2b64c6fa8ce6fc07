#include "support/test_data.h"

#include <rora/checkpoint/file.h>
#include <rora/model/decoder_options.h>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <functional>

namespace rora {
namespace {

using nlohmann::json;
using testing::TemporaryFolder;
using testing::test_data;

/// What is read of a committed config.json after `change`.
DecoderOptions read_changed(const std::string& name, const std::function<void(json&)>& change) {
  TemporaryFolder folder;
  json config = json::parse(read_file(test_data(name) / "config.json"));
  change(config);
  write_file(folder / "config.json", config.dump());
  return read_model_config(folder.path());
}

TEST(ReadLlamaConfig, TakesTheOlderSpellingOfTheRotaryFieldsFirst) {
  const auto with_scaling = [](const json& rope_scaling) {
    return read_changed(
               "golden/model",
               [&](json& config) {
                 config["rope_theta"] = 70.0;
                 config["rope_scaling"] = rope_scaling;
                 config["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 2.0}, {"rope_theta", 50.0}};
               })
        .rope();
  };
  for (const json& nothing : {json(), json::object()}) {
    EXPECT_EQ(with_scaling(nothing).factor(), 2.0);
    EXPECT_EQ(with_scaling(nothing).theta(), 50.0);
  }
  EXPECT_EQ(with_scaling({{"rope_type", "linear"}, {"factor", 4.0}}).factor(), 4.0);
  EXPECT_EQ(with_scaling({{"rope_type", "linear"}, {"factor", 4.0}}).theta(), 70.0);
}

TEST(ReadLlamaConfig, TakesTheOriginalLengthFromBesideTheRotaryFields) {
  const auto beside = read_changed("golden/forms/rope_llama3", [](json& config) {
    config["rope_parameters"].erase("original_max_position_embeddings");
    config["original_max_position_embeddings"] = 512;
  });
  EXPECT_EQ(beside.rope().original_max_position_embeddings(), 512);
}

TEST(ReadLlamaConfig, ReadsAbsentSpecialTokensAsTransformersDoesAndNullAsNone) {
  const auto null = read_changed("golden/model", [](json& config) {
    config["eos_token_id"] = nullptr;
    config["bos_token_id"] = nullptr;
  });
  EXPECT_TRUE(null.eos_token_id().empty());
  EXPECT_EQ(null.bos_token_id(), std::nullopt);
  const auto absent = read_changed("golden/model", [](json& config) {
    config.erase("eos_token_id");
    config.erase("bos_token_id");
  });
  EXPECT_EQ(absent.eos_token_id(), std::vector<int64_t>{2});
  EXPECT_EQ(absent.bos_token_id(), 1);
}

} // namespace
} // namespace rora
