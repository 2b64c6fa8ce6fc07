#include "support/tiny_llama.h"

#include <rora/adapters/attach.h>
#include <rora/adapters/bottleneck.h>
#include <rora/adapters/prefix_tuning.h>

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <ostream>
#include <vector>

namespace rora {
namespace {

using rora::testing::tiny_llama;
using rora::testing::tiny_llama_options;

/// A model of the RoRA paper and the shares, in percent, of its tables: LoRA's and RoRA's by rank, and DoRA's.
struct PaperModel {
  std::string name;
  DecoderOptions options;
  int64_t parameters;
  std::vector<double> low_rank; ///< at ranks 4, 8 … 256
  std::map<int64_t, double> dora;
};

DecoderOptions llama(int64_t hidden, int64_t intermediate, int64_t layers, int64_t heads) {
  return DecoderOptions()
      .vocab_size(32000)
      .hidden_size(hidden)
      .intermediate_size(intermediate)
      .num_hidden_layers(layers)
      .num_attention_heads(heads)
      .num_key_value_heads(heads);
}

std::vector<PaperModel> paper_models() {
  return {
      {"LLaMA_7B",
       llama(4096, 11008, 32, 32),
       6'738'415'616,
       {.1040, .2077, .4145, .8256, 1.6378, 3.2228, 6.2443},
       {{16, .4274}, {32, .8384}}},
      {"LLaMA_13B",
       llama(5120, 13824, 40, 40),
       13'015'864'320,
       {.0843, .1684, .3362, .6702, 1.3314, 2.6279, 5.1212},
       {{16, .3467}, {32, .6806}}},
      {"LLaMA3_8B",
       llama(4096, 14336, 32, 32).num_key_value_heads(8).vocab_size(128256),
       8'030'261'248,
       {.0881, .1760, .3513, .7002, 1.3906, 2.7431, 5.3398},
       {{16, .3610}, {32, .7098}}},
      {"Sheared_LLaMA_1_3B",
       llama(2048, 5504, 24, 16),
       1'345'423'360,
       {.1951, .3894, .7757, 1.5395, 3.0324, 5.8863, 11.1181},
       {{16, .7998}, {32, 1.5632}}}};
}

AdapterOptions of_the_paper(int64_t rank, bool dora) {
  return AdapterOptions()
      .low_rank(LowRankOptions().rank(rank).dora(dora))
      .target_modules(std::vector<std::string>{"q_proj", "k_proj", "v_proj", "up_proj", "down_proj"});
}

class PaperShares : public ::testing::TestWithParam<PaperModel> {};

TEST_P(PaperShares, AreThoseOfTheTablesToFourDecimals) {
  const PaperModel& model = GetParam();
  int64_t rank = 4;
  for (const double share : model.low_rank) {
    const ParameterCounts counts = count_parameters(model.options, of_the_paper(rank, /*dora=*/false));
    EXPECT_EQ(counts.total - counts.trainable, model.parameters);
    EXPECT_NEAR(counts.share(), share, 5e-5) << "rank " << rank;
    rank *= 2;
  }
  for (const auto& [dora_rank, share] : model.dora) {
    EXPECT_NEAR(count_parameters(model.options, of_the_paper(dora_rank, /*dora=*/true)).share(), share, 5e-5);
  }
}

INSTANTIATE_TEST_SUITE_P(, PaperShares, ::testing::ValuesIn(paper_models()), [](const auto& info) {
  return info.param.name;
});

AdapterOptions bottlenecks_of_the_paper(BottleneckForm form, const std::vector<std::string>& targets) {
  return AdapterOptions().kind(bottleneck(BottleneckOptions().form(form))).target_modules(targets);
}

/// The tables say them to two decimals, at LLM-Adapters' width of 256. Series is that of down_proj alone, though its
/// recipe names gate_proj and up_proj too.
TEST(BaselineShares, AreThoseOfTheTablesToTwoDecimals) {
  const DecoderOptions small = llama(4096, 11008, 32, 32), large = llama(5120, 13824, 40, 40);
  const auto series = bottlenecks_of_the_paper(BottleneckForm::kSeries, {"down_proj"});
  EXPECT_NEAR(count_parameters(small, series).share(), 0.99, 5e-3);
  EXPECT_NEAR(count_parameters(large, series).share(), 0.80, 5e-3);
  const auto whole = bottlenecks_of_the_paper(BottleneckForm::kSeries, {"gate_proj", "up_proj", "down_proj"});
  EXPECT_NEAR(count_parameters(small, whole).share(), 2.90, 5e-3);
  const auto parallel = bottlenecks_of_the_paper(BottleneckForm::kParallel, {"up_proj", "down_proj"});
  EXPECT_NEAR(count_parameters(small, parallel).share(), 3.54, 5e-3);
  EXPECT_NEAR(count_parameters(large, parallel).share(), 2.89, 5e-3);
}

/// No one length gives both of the tables' shares, .11 at 7B and .03 at 13B.
TEST(BaselineShares, OfAPrefixFollowFromItsLength) {
  const auto prefix = [](int64_t tokens) {
    return AdapterOptions().kind(prefix_tuning(PrefixTuningOptions().num_virtual_tokens(tokens)));
  };
  const DecoderOptions small = llama(4096, 11008, 32, 32), large = llama(5120, 13824, 40, 40);
  EXPECT_EQ(count_parameters(small, prefix(30)).trainable, 30 * 2 * 32 * 4096);
  EXPECT_NEAR(count_parameters(small, prefix(30)).share(), 0.1166, 5e-5);
  EXPECT_NEAR(count_parameters(large, prefix(10)).share(), 0.0315, 5e-5);
  const DecoderOptions grouped = llama(4096, 14336, 32, 32).num_key_value_heads(8).vocab_size(128256);
  EXPECT_EQ(count_parameters(grouped, prefix(30)).trainable, 30 * 2 * 32 * 1024);
}

TEST(CountParameters, OfAConfigurationAreThoseOfItsAdaptedModel) {
  for (const AdapterOptions& adapters :
       {of_the_paper(3, false), of_the_paper(3, true).layers_to_transform({1}),
        of_the_paper(2, false).rank_pattern({{"layers.0.self_attn.q_proj", 5}}).modules_to_save({"lm_head"}),
        of_the_paper(2, false).trainable_token_indices({{"embed_tokens", {4, 2}}}),
        bottlenecks_of_the_paper(BottleneckForm::kParallel, {"q_proj", "down_proj"}),
        bottlenecks_of_the_paper(BottleneckForm::kSeries, {"up_proj", "down_proj"}),
        AdapterOptions().kind(prefix_tuning())}) {
    auto model = tiny_llama();
    attach_adapters(*model, adapters);
    const ParameterCounts expected = count_parameters(*model);
    const ParameterCounts counts = count_parameters(tiny_llama_options(), adapters);
    EXPECT_EQ(counts.trainable, expected.trainable);
    EXPECT_EQ(counts.total, expected.total);
  }
}

} // namespace
} // namespace rora
