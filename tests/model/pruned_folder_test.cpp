/// What is left of a pruned model once it is saved: folders of every family.

#include <rora/model/pruning.h>

#include "checkpoint/support.h"
#include "support/gradcheck.h"
#include "support/test_data.h"
#include "support/tiny_llama.h"

#include <rora/checkpoint/file.h>
#include <rora/model/pretrained.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace rora {
namespace {

using testing::TemporaryFolder;
using testing::test_data;

at::Tensor logits(CausalLM model) {
  at::NoGradGuard no_grad;
  return model->forward({at::arange(3, 24, at::kLong).view({1, 21}), {}, {}});
}

std::vector<KeptParts> kept_by_magnitude(const CausalLM& model, double share, bool by_layer) {
  return choose_kept(*model, magnitude_importance(*model), PruneOptions().share(share).by_layer(by_layer));
}

class PrunedFolder : public ::testing::TestWithParam<std::string> {
 protected:
  TemporaryFolder folder_;
};

TEST_P(PrunedFolder, LoadsAndComputesTheSame) {
  for (const bool by_layer : {false, true}) {
    const CausalLM model = load_model(test_data(GetParam()));
    const CausalLM pruned = prune(*model, kept_by_magnitude(model, 0.4, by_layer));
    EXPECT_EQ(pruned->dtype(), model->dtype());
    EXPECT_GT(testing::relative_error(logits(pruned), logits(model)), 1e-4) << "the test could not fail";
    const std::filesystem::path first = folder_ / (by_layer ? "by_layer" : "alike");
    save_model(*pruned, first);
    const CausalLM loaded = load_model(first);
    EXPECT_TRUE(at::equal(logits(loaded), logits(pruned)));
    for (int64_t layer = 0; layer < model->options.num_hidden_layers(); ++layer) {
      EXPECT_EQ(loaded->options.layer_shape(layer), pruned->options.layer_shape(layer));
    }
    const std::filesystem::path second = folder_ / "second";
    save_model(*loaded, second);
    for (const std::string& file : testing::listing(first)) {
      EXPECT_EQ(read_file(first / file), read_file(second / file)) << file;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    , PrunedFolder,
    ::testing::Values(
        "golden/model", "golden/forms/untied", "golden/forms/biases", "golden/forms/one_key_value_head",
        "golden/forms/tied_with_only_the_head", "families/gemma3_text", "families/granite", "families/mistral",
        "families/olmo2", "families/qwen2", "families/qwen3", "families/smollm3"),
    [](const auto& info) { return info.param.substr(info.param.rfind('/') + 1); });

TEST(PrunedFolderOfLikeLayers, SaysItsWidthsInItsConfig) {
  TemporaryFolder folder;
  const CausalLM model = testing::tiny_llama();
  const CausalLM pruned = prune(*model, {{{1}, {0, 5, 7}}, {{0}, {1, 2, 3}}});
  save_model(*pruned, folder.path());
  const auto config = nlohmann::json::parse(read_file(folder / "config.json"));
  EXPECT_EQ(config["num_attention_heads"], 2);
  EXPECT_EQ(config["num_key_value_heads"], 1);
  EXPECT_EQ(config["intermediate_size"], 3);
  EXPECT_EQ(config["head_dim"], 4); // hidden_size / num_attention_heads would be 8
}

TEST(PrunedFolderOfUnlikeLayers, CanBePrunedOnUntilTheyAreAlike) {
  TemporaryFolder folder;
  const CausalLM model = testing::tiny_llama();
  save_model(*prune(*model, {{{0, 1}, {0, 5, 7}}, {{0}, {1, 2, 3}}}), folder / "unlike");
  const CausalLM unlike = load_model(folder / "unlike");
  ASSERT_EQ(unlike->options.layer_shapes().size(), 2u);
  const CausalLM alike = prune(*unlike, {{{1}, {0, 1, 2}}, {{0}, {0, 1, 2}}});
  save_model(*alike, folder / "alike");
  EXPECT_TRUE(at::equal(logits(load_model(folder / "alike")), logits(alike)));
  EXPECT_TRUE(at::equal(logits(alike), logits(prune(*model, {{{1}, {0, 5, 7}}, {{0}, {1, 2, 3}}}))));
}

} // namespace
} // namespace rora
