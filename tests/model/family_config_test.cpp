/// What each family reads of config.json, and what it refuses.

#include "checkpoint/support.h"
#include "support/test_data.h"

#include <rora/checkpoint/file.h>
#include <rora/error.h>
#include <rora/model/decoder_options.h>
#include <rora/model/generation.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>

namespace rora {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using testing::message_of;
using testing::TemporaryFolder;
using testing::test_data;

/// The least config of a family, of four layers, with `fields`.
json config_of(const std::string& family, const json& fields) {
  json config{{"model_type", family},    {"vocab_size", 48},       {"hidden_size", 256},
              {"intermediate_size", 24}, {"num_hidden_layers", 4}, {"num_attention_heads", 32},
              {"num_key_value_heads", 8}};
  config.update(fields);
  return config;
}

DecoderOptions read(const json& config) {
  TemporaryFolder folder;
  write_file(folder / "config.json", config.dump());
  return read_model_config(folder.path());
}

DecoderOptions read(const std::string& family, const json& fields) {
  return read(config_of(family, fields));
}

DecoderOptions read_published(const std::string& name) {
  return read_model_config(test_data("families/published/" + name + ".json"));
}

/// The windows of all layers, 0 where there is none.
std::vector<int64_t> windows(const DecoderOptions& options) {
  std::vector<int64_t> each;
  for (int64_t layer = 0; layer < options.num_hidden_layers(); ++layer) {
    each.push_back(options.window(layer));
  }
  return each;
}

using Windows = std::vector<int64_t>;

struct Refusal {
  const char* family;
  json fields;
  const char* message;
};

void expect_refused(const std::vector<Refusal>& refusals) {
  for (const Refusal& each : refusals) {
    EXPECT_THAT(message_of<FormatError>([&] { read(each.family, each.fields); }), HasSubstr(each.message))
        << each.family << ' ' << each.fields;
  }
}

TEST(FamilyConfigs, RefuseWhatNoFamilyDoes) {
  for (const char* family : {"llama", "qwen2", "mistral", "qwen3", "smollm3", "granite", "olmo2", "gemma3_text"}) {
    expect_refused(
        {{family, {{"num_hidden_layers", INT64_MAX}}, "num_hidden_layers must be at most 10000"},
         {family, {{"num_hidden_layers", -14}}, "num_hidden_layers must be at least 1, not -14"},
         {family, {{"is_causal", false}}, "is_causal false is not supported"},
         {family, {{"per_layer_config", {{"1", {{"num_key_value_heads", 2}}}}}}, "per_layer_config is not supported"},
         {family, {{"attention_dropout", 0.1}}, "attention_dropout over 0 is not supported"},
         {family, {{"partial_rotary_factor", 0.5}}, "partial_rotary_factor other than 1 is not supported"},
         {family, {{"quantization_config", {{"bits", 4}}}}, "quantization_config is not supported"},
         {family, {{"hidden_act", "relu"}}, "hidden_act 'relu' is not supported"},
         {family,
          {{"rope_scaling", {{"rope_type", "yarn"}, {"factor", 4.0}}}},
          "rope_scaling.rope_type 'yarn' is not supported"},
         {family,
          {{"rope_parameters", {{"chunked_attention", {{"rope_type", "default"}}}}}},
          "rope_parameters.chunked_attention is not supported"}});
    EXPECT_NO_THROW(read(family, {{"per_layer_config", nullptr}, {"is_causal", true}}));
  }
}

TEST(FamilyConfigs, FieldsThatAreAbsentMeanWhatTransformersClassesSay) {
  struct Absent {
    const char* family;
    int64_t kv_heads, head_dim, positions;
    bool tied;
    double eps, theta;
    std::optional<int64_t> bos;
    std::vector<int64_t> eos;
  };
  for (const Absent& each : std::vector<Absent>{
           {"llama", 32, 8, 2048, false, 1e-6, 1e4, 1, {2}},
           {"qwen2", 32, 8, 32768, false, 1e-6, 1e4, std::nullopt, {}},
           {"mistral", 8, 8, 131072, false, 1e-6, 1e4, 1, {2}},
           {"qwen3", 32, 128, 32768, false, 1e-6, 1e4, std::nullopt, {}},
           {"smollm3", 4, 8, 32768, true, 1e-6, 2e6, 128000, {128001}},
           {"granite", 32, 8, 2048, false, 1e-6, 1e4, 1, {2}},
           {"olmo2", 32, 8, 2048, false, 1e-5, 1e4, std::nullopt, {50279}},
           {"gemma3_text", 4, 256, 131072, true, 1e-6, 1e6, 2, {1}}}) {
    SCOPED_TRACE(each.family);
    json config = config_of(each.family, json::object());
    config.erase("num_key_value_heads");
    const DecoderOptions options = read(config);
    EXPECT_EQ(options.layer_shape(0).num_key_value_heads, each.kv_heads);
    EXPECT_EQ(options.resolved_head_dim(), each.head_dim);
    EXPECT_EQ(options.max_position_embeddings(), each.positions);
    EXPECT_EQ(options.tie_word_embeddings(), each.tied);
    EXPECT_EQ(options.rms_norm_eps(), each.eps);
    EXPECT_EQ(options.rope().theta(), each.theta);
    EXPECT_EQ(options.bos_token_id(), each.bos);
    EXPECT_EQ(options.eos_token_id(), each.eos);
    TemporaryFolder folder;
    write_file(folder / "config.json", config.dump());
    EXPECT_EQ(read_stop_token_ids(folder.path()), each.eos);
    config["num_key_value_heads"] = nullptr;
    EXPECT_EQ(read(config).layer_shape(0).num_key_value_heads, 32) << "null is as many as there are heads";
  }
}

/// What the fields of a published config.json come to.
struct Published {
  const char* name;
  int64_t hidden, inner, layers, heads, kv_heads, head_dim, positions, vocabulary;
  double theta, eps;
  bool tied;
  int64_t eos;
};

TEST(FamilyConfigs, OfPublishedModelsAreRead) {
  for (const Published& each : std::vector<Published>{
           {"Qwen2.5-0.5B", 896, 4864, 24, 14, 2, 64, 32768, 151936, 1e6, 1e-6, true, 151643},
           {"Mistral-7B-v0.3", 4096, 14336, 32, 32, 8, 128, 32768, 32768, 1e6, 1e-5, false, 2},
           {"Qwen3-0.6B", 1024, 3072, 28, 16, 8, 128, 40960, 151936, 1e6, 1e-6, true, 151645},
           {"SmolLM3-3B", 2048, 11008, 36, 16, 4, 128, 65536, 128256, 5e6, 1e-6, true, 128012},
           {"granite-3.3-2b-base", 2048, 8192, 40, 32, 8, 64, 131072, 49159, 1e7, 1e-5, true, 0},
           {"OLMo-2-0425-1B", 2048, 8192, 16, 16, 16, 128, 4096, 100352, 5e5, 1e-6, false, 100257}}) {
    SCOPED_TRACE(each.name);
    const DecoderOptions options = read_published(each.name);
    EXPECT_EQ(options.hidden_size(), each.hidden);
    EXPECT_EQ(options.num_hidden_layers(), each.layers);
    EXPECT_EQ(options.layer_shape(0), (LayerShape{each.heads, each.kv_heads, each.inner}));
    EXPECT_EQ(options.resolved_head_dim(), each.head_dim);
    EXPECT_EQ(options.max_position_embeddings(), each.positions);
    EXPECT_EQ(options.vocab_size(), each.vocabulary);
    EXPECT_EQ(options.rope().theta(), each.theta);
    EXPECT_EQ(options.rope().scaling(), RopeScaling::kNone);
    EXPECT_EQ(options.rms_norm_eps(), each.eps);
    EXPECT_EQ(options.tie_word_embeddings(), each.tied);
    EXPECT_EQ(options.eos_token_id(), std::vector<int64_t>{each.eos});
    EXPECT_EQ(windows(options), Windows(static_cast<size_t>(each.layers), 0)) << "none of them slides";
  }
}

TEST(Qwen2Config, AttentionHasItsBiasesWhateverAttentionBiasSays) {
  for (const json& fields : {json::object(), json{{"attention_bias", false}}, json{{"attention_bias", true}}}) {
    const DecoderOptions options = read("qwen2", fields);
    EXPECT_TRUE(options.bias().q && options.bias().k && options.bias().v);
    EXPECT_FALSE(options.bias().o);
  }
}

TEST(QwenConfigs, TheirWindowsAreThoseOfTransformers) {
  const std::vector<std::string> mixed{"full_attention", "sliding_attention", "full_attention", "sliding_attention"};
  for (const char* family : {"qwen2", "qwen3"}) {
    const auto found = [&](const json& fields) { return windows(read(family, fields)); };
    EXPECT_EQ(found({{"sliding_window", 7}}), Windows(4, 0)) << "use_sliding_window is false where it is absent";
    EXPECT_EQ(found({{"use_sliding_window", true}, {"sliding_window", 7}}), Windows(4, 0)) << "max_window_layers is 28";
    EXPECT_EQ(
        found({{"use_sliding_window", true}, {"sliding_window", 7}, {"max_window_layers", 3}}), (Windows{0, 0, 0, 7}));
    EXPECT_EQ(found({{"use_sliding_window", true}, {"max_window_layers", 0}}), Windows(4, 4096));
    EXPECT_EQ(
        found({{"use_sliding_window", true}, {"sliding_window", nullptr}, {"max_window_layers", 0}}), Windows(4, 0));
    EXPECT_EQ(
        found({{"use_sliding_window", true}, {"sliding_window", 7}, {"max_window_layers", 3}, {"layer_types", mixed}}),
        (Windows{0, 7, 0, 7}));
    expect_refused(
        {{family,
          {{"sliding_window", 7}, {"layer_types", mixed}},
          "layer_types names layers of sliding_attention, but use"},
         {family,
          {{"use_sliding_window", true}, {"sliding_window", nullptr}, {"layer_types", mixed}},
          "layer_types names layers of sliding_attention, but sliding_window is null"},
         {family, {{"layer_types", {"full_attention"}}}, "layer_types must name each of the 4 layers"},
         {family, {{"layer_types", json::array()}}, "layer_types must name each of the 4 layers"},
         {family,
          {{"layer_types", {"full_attention", "full_attention", "full_attention", "chunked_attention"}}},
          "layer_types 'chunked_attention' is not supported"},
         {family, {{"use_sliding_window", true}, {"sliding_window", 0}}, "sliding_window must be positive"},
         {family, {{"mlp_bias", true}}, "mlp_bias is not supported"}});
  }
}

/// Options with windows of all shapes are written so that they read back.
TEST(QwenConfigs, WriteTheirWindows) {
  for (const char* family : {"qwen2", "qwen3"}) {
    DecoderOptions options = read(family, json::object());
    const auto written = [&] { return json::parse(model_config_json(options, "float32")); };
    EXPECT_EQ(written()["use_sliding_window"], false);
    EXPECT_TRUE(written()["sliding_window"].is_null());
    EXPECT_EQ(windows(read(written())), Windows(4, 0));
    options.sliding_window(9);
    EXPECT_EQ(written()["max_window_layers"], 0);
    EXPECT_EQ(windows(read(written())), Windows(4, 9));
    options.layer_types(
        {LayerType::kFullAttention, LayerType::kFullAttention, LayerType::kSlidingAttention,
         LayerType::kSlidingAttention});
    EXPECT_EQ(written()["max_window_layers"], 2);
    json of_transformers_4 = written();
    of_transformers_4.erase("layer_types");
    EXPECT_EQ(windows(read(written())), (Windows{0, 0, 9, 9}));
    EXPECT_EQ(windows(read(of_transformers_4)), (Windows{0, 0, 9, 9}));
    options.layer_types(std::vector<LayerType>(4, LayerType::kFullAttention));
    EXPECT_EQ(windows(read(written())), Windows(4, 0));
  }
}

TEST(Qwen3Config, ReadsThePublishedOnesForm) {
  const DecoderOptions options = read_published("Qwen3-0.6B");
  EXPECT_TRUE(options.qk_norm());
  EXPECT_EQ(options.bias(), ProjectionBiases());
  EXPECT_TRUE(read("qwen3", {{"attention_bias", true}}).bias().o);
}

TEST(MistralConfig, SlidesInEveryLayerOrInNone) {
  EXPECT_EQ(windows(read("mistral", json::object())), Windows(4, 4096));
  EXPECT_EQ(windows(read("mistral", {{"sliding_window", 9}})), Windows(4, 9));
  EXPECT_EQ(windows(read("mistral", {{"sliding_window", nullptr}})), Windows(4, 0));
  EXPECT_EQ(read("mistral", {{"head_dim", 12}}).resolved_head_dim(), 12);
  for (const int64_t window : {0, 9}) {
    const DecoderOptions options = read("mistral", json::object()).sliding_window(window);
    EXPECT_EQ(windows(read(json::parse(model_config_json(options, "float32")))), Windows(4, window));
  }
  expect_refused(
      {{"mistral", {{"attention_bias", true}}, "attention_bias is not supported"},
       {"mistral", {{"mlp_bias", true}}, "mlp_bias is not supported"},
       {"mistral", {{"sliding_window", -1}}, "sliding_window must be positive"},
       {"mistral", {{"layer_types", std::vector<std::string>(4, "full_attention")}}, "layer_types is not supported"}});
}

TEST(SmolLM3Config, LeavesRotaryPositionsOutWhereTransformersDoes) {
  const auto rotating = [](const DecoderOptions& options) {
    std::vector<int64_t> layers;
    for (int64_t layer = 0; layer < options.num_hidden_layers(); ++layer) {
      layers.push_back(options.rotates(layer) ? 1 : 0);
    }
    return layers;
  };
  using Layers = std::vector<int64_t>;
  const auto found = [&](const json& fields) { return rotating(read("smollm3", fields)); };
  EXPECT_EQ(found(json::object()), (Layers{1, 1, 1, 0}));
  EXPECT_EQ(found({{"no_rope_layer_interval", 2}}), (Layers{1, 0, 1, 0}));
  EXPECT_EQ(found({{"no_rope_layers", nullptr}, {"no_rope_layer_interval", 3}}), (Layers{1, 1, 0, 1}));
  EXPECT_EQ(found({{"no_rope_layers", {0, 1, 1, 1, 0, 0}}}), (Layers{0, 1, 1, 1})) << "the list may be longer";
  const std::vector<int64_t> published = rotating(read_published("SmolLM3-3B"));
  EXPECT_EQ(std::count(published.begin(), published.end(), 0), 9);
  EXPECT_EQ(published[3], 0);
  for (const Layers& layers : {Layers(), Layers{1, 1, 1, 1}, Layers{0, 0, 1, 0}}) {
    const DecoderOptions options = read("smollm3", json::object()).no_rope_layers(layers);
    EXPECT_EQ(rotating(read(json::parse(model_config_json(options, "float32")))), rotating(options));
  }
  expect_refused(
      {{"smollm3", {{"no_rope_layers", {1, 1, 1}}}, "no_rope_layers must name each of the 4 layers"},
       {"smollm3", {{"no_rope_layers", json::array()}}, "no_rope_layers must name each of the 4 layers"},
       {"smollm3", {{"no_rope_layers", {1, 1, 1, 2}}}, "no_rope_layers must hold 0 and 1, not 2"},
       {"smollm3", {{"no_rope_layer_interval", 0}}, "no_rope_layer_interval must be positive"}});
}

TEST(SmolLM3Config, SlidesInTheLayersWithoutRotaryPositionsOrWhereLayerTypesSay) {
  const auto found = [](const json& fields) { return windows(read("smollm3", fields)); };
  const std::vector<std::string> types{"full_attention", "sliding_attention", "full_attention", "full_attention"};
  EXPECT_EQ(found({{"sliding_window", 7}}), Windows(4, 0)) << "use_sliding_window is false where it is absent";
  EXPECT_EQ(found({{"use_sliding_window", true}}), Windows(4, 0)) << "and there is no window";
  EXPECT_EQ(found({{"use_sliding_window", true}, {"sliding_window", 7}}), (Windows{0, 0, 0, 7}));
  EXPECT_EQ(
      found({{"use_sliding_window", true}, {"sliding_window", 7}, {"layer_types", types}}), (Windows{0, 7, 0, 0}));
  expect_refused(
      {{"smollm3", {{"sliding_window", 7}, {"layer_types", types}}, "layer_types names layers of sliding_attention"}});
}

TEST(GraniteConfig, ReadsItsMultipliers) {
  const DecoderOptions options = read_published("granite-3.3-2b-base");
  EXPECT_EQ(options.embedding_multiplier(), 12.0);
  EXPECT_EQ(options.attention_multiplier(), 0.015625);
  EXPECT_EQ(options.residual_multiplier(), 0.22);
  EXPECT_EQ(options.logits_scaling(), 8.0);
  const DecoderOptions absent = read("granite", json::object());
  EXPECT_EQ(absent.embedding_multiplier(), 1.0);
  EXPECT_EQ(absent.attention_multiplier(), 1.0) << "not 1/sqrt(head_dim)";
  EXPECT_EQ(absent.residual_multiplier(), 1.0);
  EXPECT_EQ(absent.logits_scaling(), 1.0);
  DecoderOptions usual = absent;
  usual.attention_multiplier(0.0);
  EXPECT_EQ(json::parse(model_config_json(usual, "float32"))["attention_multiplier"], 1.0 / std::sqrt(8.0));
  expect_refused(
      {{"granite", {{"attention_multiplier", 0.0}}, "attention_multiplier must be positive"},
       {"granite", {{"logits_scaling", 0.0}}, "logits_scaling must be finite and not 0"},
       {"granite", {{"sliding_window", 7}}, "sliding_window is not supported"}});
}

TEST(Olmo2Config, NormsWhatAttentionAndTheMLPGive) {
  const DecoderOptions options = read_published("OLMo-2-0425-1B");
  EXPECT_EQ(options.norm_placement(), NormPlacement::kAfter);
  EXPECT_TRUE(options.qk_norm() && options.qk_norm_of_all_heads());
  EXPECT_FALSE(options.norm_adds_one());
  expect_refused(
      {{"olmo2", {{"clip_qkv", 8.0}}, "clip_qkv is not supported"},
       {"olmo2", {{"sliding_window", 7}}, "sliding_window is not supported"},
       {"olmo2", {{"mlp_bias", true}}, "mlp_bias is not supported"}});
}

TEST(Gemma3Config, ReadsThePublishedOne) {
  const DecoderOptions options = read_published("gemma-3-1b-it");
  EXPECT_EQ(options.layer_shape(0), (LayerShape{4, 1, 6912}));
  EXPECT_EQ(options.resolved_head_dim(), 256);
  EXPECT_EQ(options.hidden_act(), Activation::kGELUTanh);
  EXPECT_EQ(options.norm_placement(), NormPlacement::kBeforeAndAfter);
  EXPECT_TRUE(options.norm_adds_one() && options.qk_norm() && options.tie_word_embeddings());
  EXPECT_EQ(options.embedding_multiplier(), std::sqrt(1152.0));
  EXPECT_TRUE(options.embedding_multiplier_rounds());
  EXPECT_EQ(options.attention_multiplier(), 1.0 / 16.0);
  EXPECT_EQ(options.rope().theta(), 1e6);
  ASSERT_TRUE(options.sliding_rope());
  EXPECT_EQ(options.sliding_rope()->theta(), 1e4);
  EXPECT_EQ(options.eos_token_id(), (std::vector<int64_t>{1, 106}));
  const Windows found = windows(options);
  EXPECT_EQ(Windows(found.begin(), found.begin() + 7), (Windows{512, 512, 512, 512, 512, 0, 512}));
  EXPECT_EQ(std::count(found.begin(), found.end(), 0), 4);
}

TEST(Gemma3Config, ReadsWindowsAndRotaryBasesInBothSpellings) {
  const std::vector<std::string> full(4, "full_attention");
  const auto found = [](const json& fields) { return windows(read("gemma3_text", fields)); };
  EXPECT_EQ(found(json::object()), Windows(4, 4096));
  EXPECT_EQ(found({{"sliding_window_pattern", 2}, {"sliding_window", 7}}), (Windows{7, 0, 7, 0}));
  EXPECT_EQ(found({{"layer_types", full}, {"sliding_window", nullptr}}), Windows(4, 0));
  const json linear{{"rope_type", "linear"}, {"factor", 8.0}};
  const DecoderOptions of_4 =
      read("gemma3_text", {{"rope_theta", 50.0}, {"rope_local_base_freq", 20.0}, {"rope_scaling", linear}});
  json full_rope = linear;
  full_rope["rope_theta"] = 50.0;
  const DecoderOptions of_5 = read(
      "gemma3_text",
      {{"rope_parameters",
        {{"full_attention", full_rope}, {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 20.0}}}}}});
  for (const DecoderOptions& options : {of_4, of_5}) {
    EXPECT_EQ(options.rope().theta(), 50.0);
    EXPECT_EQ(options.rope().scaling(), RopeScaling::kLinear);
    EXPECT_EQ(options.rope().factor(), 8.0);
    EXPECT_EQ(options.sliding_rope()->theta(), 20.0);
    EXPECT_EQ(options.sliding_rope()->scaling(), RopeScaling::kNone) << "which is of full attention alone";
  }
  EXPECT_EQ(model_config_json(of_4, "float32"), model_config_json(of_5, "float32"));
  const json written = json::parse(model_config_json(of_4, "float32"));
  EXPECT_EQ(model_config_json(read(written), "float32"), model_config_json(of_4, "float32"));
  expect_refused(
      {{"gemma3_text", {{"use_bidirectional_attention", true}}, "use_bidirectional_attention is not supported"},
       {"gemma3_text", {{"final_logit_softcapping", 30.0}}, "final_logit_softcapping is not supported"},
       {"gemma3_text", {{"attn_logit_softcapping", 50.0}}, "attn_logit_softcapping is not supported"},
       {"gemma3_text", {{"query_pre_attn_scalar", 0}}, "query_pre_attn_scalar must be from 1 to 2147483647, not 0"},
       {"gemma3_text", {{"hidden_activation", "gelu"}}, "hidden_activation 'gelu' is not supported"},
       {"gemma3_text", {{"sliding_window_pattern", 0}}, "sliding_window_pattern must be positive"},
       {"gemma3_text", {{"sliding_window", nullptr}}, "layer_types names layers of sliding_attention"},
       {"gemma3_text", {{"rope_parameters", {{"rope_theta", 1e6}}}}, "rope_parameters.rope_theta is not supported"}});
}

} // namespace
} // namespace rora
