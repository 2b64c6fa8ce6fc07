#include "kind_support.h"
#include "support/golden.h"

#include <rora/adapters/prefix_tuning.h>
#include <rora/checkpoint/safetensors.h>
#include <rora/model/generation.h>
#include <rora/model/pretrained.h>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace rora {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using testing::expect_the_same_once_loaded;
using testing::failure_with;
using ::testing::HasSubstr;
using testing::KindRun;
using testing::logits_of;
using testing::relative_error;
using testing::TemporaryFolder;
using testing::test_data;
using ::testing::ThrowsMessage;
using testing::tiny_llama;
using testing::tiny_llama_options;

AdapterOptions adapters(int64_t tokens = 3, double initial_std = 1.0) {
  return AdapterOptions().kind(
      prefix_tuning(PrefixTuningOptions().num_virtual_tokens(tokens).initial_std(initial_std)));
}

AttentionImpl& attention(const CausalLM& model, size_t layer) {
  return *testing::decoder_of(model)->layers->at<DecoderLayerImpl>(layer).self_attn;
}

PrefixAdapter& prefix_of(const CausalLM& model, size_t layer) {
  return dynamic_cast<PrefixAdapter&>(*attention(model, layer).adapter(kDefaultAdapter));
}

struct Form {
  std::string name;
  DecoderOptions options;
};

std::vector<Form> forms() {
  return {
      {"plain", tiny_llama_options()},
      {"window", tiny_llama_options().sliding_window(4)},
      {"window_in_a_layer",
       tiny_llama_options().sliding_window(4).layer_types({LayerType::kSlidingAttention, LayerType::kFullAttention})},
      {"without_rotation_in_a_layer", tiny_llama_options().no_rope_layers({1, 0})},
      {"stretched",
       tiny_llama_options().max_position_embeddings(6).rope(RopeOptions().scaling(RopeScaling::kDynamic).factor(2.0))},
      {"norms_of_heads", tiny_llama_options().qk_norm(true)},
      {"one_head_of_keys", tiny_llama_options().num_key_value_heads(1)},
      {"pruned", tiny_llama_options().layer_shapes({{4, 2, 24}, {2, 1, 10}})}};
}

/// A model whose prefix is the keys and values that it has of a row's first tokens.
class PrefixOfTokens : public ::testing::TestWithParam<Form> {
 protected:
  PrefixOfTokens() {
    model->to(at::kDouble);
    at::NoGradGuard no_grad;
    expected = model->forward({ids, {}, {}}).slice(1, tokens);
    // Of dynamic scaling, keys are turned as the row's length says: so take them from the whole row.
    KeyValueCache cache;
    model->forward({ids, {}, {}}, &cache);
    attach_adapters(*model, adapters(tokens));
    for (size_t layer = 0; layer < 2; ++layer) {
      const int64_t heads = attention(model, layer).k_proj->out_features() / 4;
      const at::Tensor nothing = at::empty({1, heads, 0, 4}, at::kDouble);
      const auto [keys, values] = cache.append(layer, nothing, nothing);
      at::Tensor own = prefix_of(model, layer).key_value_prefix;
      own.select(1, 0).copy_(keys[0].slice(1, 0, tokens).transpose(0, 1));
      own.select(1, 1).copy_(values[0].slice(1, 0, tokens).transpose(0, 1));
    }
    rest = ids.slice(1, tokens);
  }

  const int64_t tokens = 3;
  DecoderForCausalLM model = tiny_llama(GetParam().options);
  at::Tensor ids = (at::arange(11, at::kLong) * 5 % 32).view({1, 11});
  at::Tensor rest;
  at::Tensor expected;
};

TEST_P(PrefixOfTokens, DoesWhatTheTokensDid) {
  at::NoGradGuard no_grad;
  EXPECT_LT(relative_error(model->forward({rest, {}, {}}), expected), 1e-6);
  const at::Tensor given = at::arange(rest.size(1), at::kLong).unsqueeze(0);
  EXPECT_LT(relative_error(model->forward({rest, {}, given}), expected), 1e-6) << "with positions that are given";
}

TEST_P(PrefixOfTokens, DoesSoBehindPadding) {
  at::NoGradGuard no_grad;
  const at::Tensor padding = at::zeros({1, 2}, at::kLong);
  const at::Tensor left = at::cat({padding, at::ones_like(rest)}, 1);
  EXPECT_LT(relative_error(model->forward({at::cat({padding, rest}, 1), left, {}}).slice(1, 2), expected), 1e-6);
  const at::Tensor right = at::cat({at::ones_like(rest), padding}, 1);
  const at::Tensor found = model->forward({at::cat({rest, padding}, 1), right, {}}).slice(1, 0, rest.size(1));
  EXPECT_LT(relative_error(found, expected), 1e-6);
}

TEST_P(PrefixOfTokens, DoesSoInFrontOfACache) {
  at::NoGradGuard no_grad;
  if (GetParam().name == "stretched") {
    GTEST_SKIP() << "dynamic scaling turns the keys of a longer row otherwise";
  }
  KeyValueCache cache;
  std::vector<at::Tensor> steps{model->forward({rest.slice(1, 0, 2), {}, {}}, &cache)};
  for (int64_t token = 2; token < rest.size(1); ++token) {
    steps.push_back(model->forward({rest.slice(1, token, token + 1), {}, {}}, &cache));
  }
  EXPECT_LT(relative_error(at::cat(steps, 1), expected), 1e-6);
}

INSTANTIATE_TEST_SUITE_P(, PrefixOfTokens, ::testing::ValuesIn(forms()), [](const auto& info) {
  return info.param.name;
});

/// PEFT's answers of a prefix that it made.
class PeftsPrefix : public ::testing::Test {
 protected:
  PeftsPrefix() {
    load_adapter(*model, folder);
  }

  std::filesystem::path folder = test_data("golden/answers/prefix");
  CausalLM model = load_model(test_data("golden/model"), at::kFloat);
};

TEST_F(PeftsPrefix, GivesItsLogitsOfPaddedRows) {
  const SafetensorsFile answers(folder / "answers.safetensors");
  const at::Tensor mask = answers.tensor("padded_attention_mask");
  at::NoGradGuard no_grad;
  const at::Tensor found = model->forward({answers.tensor("padded_input_ids"), mask, {}}) * mask.unsqueeze(-1);
  EXPECT_LT(relative_error(found, answers.tensor("padded_logits") * mask.unsqueeze(-1)), 1e-5);
}

TEST_F(PeftsPrefix, IsGoneOnFromAsItGenerates) {
  const testing::GreedyPrompts greedy = testing::read_greedy(folder / "text.json");
  ASSERT_EQ(greedy.prompts.size(), 3u);
  const auto options = GenerationOptions().max_new_tokens(24);
  for (size_t i = 0; i < greedy.prompts.size(); ++i) {
    EXPECT_EQ(generate(model, {greedy.prompts[i]}, options)[0], greedy.continuations[i]);
  }
  EXPECT_EQ(generate(model, greedy.prompts, options), greedy.continuations) << "in one batch, padded on the left";
}

TEST_F(PeftsPrefix, IsSavedWithItsBytesAndFields) {
  const TemporaryFolder saved;
  save_adapter(*model, saved.path());
  const SafetensorsFile before(folder / "adapter_model.safetensors");
  const SafetensorsFile after(saved / "adapter_model.safetensors");
  EXPECT_THAT(after.names(), ElementsAre("prompt_embeddings"));
  EXPECT_TRUE(at::equal(after.tensor("prompt_embeddings"), before.tensor("prompt_embeddings")));
  const json own = json::parse(read_file(saved / "adapter_config.json"));
  const json peft = json::parse(read_file(folder / "adapter_config.json"));
  for (const auto& [field, value] : own.items()) {
    if (field != "base_model_name_or_path") {
      EXPECT_EQ(value, peft.at(field)) << field;
    }
  }
}

TEST(PrefixTuning, OfZerosIsSeenAllTheSame) {
  auto model = tiny_llama();
  const at::Tensor without = logits_of(model);
  EXPECT_THAT(
      attach_adapters(*model, adapters(2, 0.0)), ElementsAre("model.layers.0.self_attn", "model.layers.1.self_attn"));
  EXPECT_FALSE(prefix_of(model, 1).key_value_prefix.any().item<bool>());
  EXPECT_GT(relative_error(logits_of(model), without), 1e-3);
}

TEST(PrefixTuning, BeginsAsPeftsDo) {
  auto model = tiny_llama();
  attach_adapters(*model, adapters(900));
  const at::Tensor& drawn = prefix_of(model, 0).key_value_prefix;
  EXPECT_EQ(drawn.sizes(), at::IntArrayRef({900, 2, 2, 4}));
  EXPECT_NEAR(drawn.mean().item<double>(), 0.0, 0.04);
  EXPECT_NEAR(drawn.std().item<double>(), 1.0, 0.03);
}

TEST(PrefixTuning, LearnsASmallTaskAndGoesOnBitForBit) {
  const TemporaryFolder whole, parts;
  KindRun run(adapters(8), whole.path());
  EXPECT_LT(run.losses.back(), 0.9 * run.losses.front());
  KindRun(adapters(8), parts.path(), /*stop_after=*/5);
  const KindRun resumed(adapters(8), parts.path());
  EXPECT_TRUE(at::equal(resumed.flat(), run.flat()));
}

TEST(PrefixTuning, IsLoadedAsItWasSaved) {
  for (const double initial_std : {1.0, 0.02, 0.0}) {
    auto model = tiny_llama();
    attach_adapters(*model, adapters(4, initial_std));
    const json config = expect_the_same_once_loaded(model);
    EXPECT_EQ(config.at("num_virtual_tokens"), 4);
    EXPECT_EQ(config.at("num_layers"), 2);
    EXPECT_EQ(config.at("num_attention_heads"), 2);
    EXPECT_EQ(config.at("token_dim"), 8);
    EXPECT_EQ(config.at("init_weights"), initial_std == 0.0 ? json("zero") : json(nullptr));
    EXPECT_FALSE(config.contains("target_modules"));
  }
}

TEST(PrefixTuning, OfAPrunedModelIsLoadedAsItWasSaved) {
  const TemporaryFolder folder;
  const DecoderOptions pruned = tiny_llama_options().layer_shapes({{4, 2, 24}, {2, 1, 10}});
  auto model = tiny_llama(pruned);
  attach_adapters(*model, adapters());
  save_adapter(*model, folder.path());
  EXPECT_EQ(json::parse(read_file(folder / "adapter_config.json")).at("token_dim"), nullptr);
  auto other = tiny_llama(pruned);
  load_adapter(*other, folder.path());
  EXPECT_TRUE(at::equal(logits_of(other), logits_of(model)));
}

TEST(PrefixTuning, IsActivatedAndDetachedAsAnyKind) {
  auto model = tiny_llama();
  const at::Tensor frozen = logits_of(model);
  attach_adapters(*model, adapters());
  const at::Tensor prefixed = logits_of(model);
  EXPECT_EQ(adapter_parameters(*model).size(), 2u);
  EXPECT_EQ(named_adapter_parameters(*model)[1].first, "model.layers.1.self_attn.key_value_prefix");
  EXPECT_EQ(count_parameters(*model).trainable, 2 * 3 * 2 * 2 * 4);
  EXPECT_THROW(attach_adapters(*model, adapters()), c10::ValueError) << "the name is in use";
  EXPECT_THROW(attach_adapters(*model, AdapterOptions()), c10::ValueError) << "the name is in use";
  attach_adapters(*model, AdapterOptions().low_rank(LowRankOptions().rank(2)), "low_rank");
  activate_adapters(*model, "low_rank");
  EXPECT_TRUE(at::equal(logits_of(model), frozen));
  EXPECT_FALSE(prefix_of(model, 0).key_value_prefix.requires_grad());
  activate_adapters(*model, kDefaultAdapter);
  EXPECT_TRUE(at::equal(logits_of(model), prefixed));
  detach_adapters(*model);
  EXPECT_TRUE(at::equal(logits_of(model), frozen));
  EXPECT_THROW(adapter_parameters(*model), c10::ValueError);
  EXPECT_THROW(activate_adapters(*model, kDefaultAdapter), c10::ValueError);
}

TEST(PrefixTuning, IsNeverMergedAndStaysUnderDisableAdapters) {
  const TemporaryFolder folder;
  auto model = tiny_llama();
  const at::Tensor frozen = logits_of(model);
  attach_adapters(*model, adapters());
  const at::Tensor prefixed = logits_of(model);
  EXPECT_THAT(
      [&] { merge_adapters(*model); },
      ThrowsMessage<c10::ValueError>(HasSubstr("model.layers.0.self_attn: no weight does what its adapter does")));
  EXPECT_THROW(save_model(*model, folder / "model"), c10::ValueError);
  {
    const DisableAdapters of_projections(*model);
    EXPECT_TRUE(at::equal(logits_of(model), prefixed));
  }
  for (const size_t layer : {0, 1}) {
    attention(model, layer).set_adapters_enabled(false);
  }
  EXPECT_TRUE(at::equal(logits_of(model), frozen));
}

TEST(PrefixTuning, StaysInFp32OverALowerModel) {
  auto model = tiny_llama();
  model->to(at::kBFloat16);
  attach_adapters(*model, adapters());
  EXPECT_EQ(prefix_of(model, 0).key_value_prefix.scalar_type(), at::kFloat);
  EXPECT_EQ(logits_of(model).scalar_type(), at::kBFloat16);
}

TEST(PrefixTuning, IsOfEveryAttentionAndOfRowsOfOneSequence) {
  auto model = tiny_llama();
  for (const AdapterOptions& chosen :
       {adapters().target_modules(std::vector<std::string>{"q_proj"}), adapters().layers_to_transform({1}),
        adapters().modules_to_save({"lm_head"}), adapters().exclude_modules(std::vector<std::string>{"k_proj"})}) {
    EXPECT_THAT(
        [&] { attach_adapters(*model, chosen); },
        ThrowsMessage<c10::ValueError>(HasSubstr("PREFIX_TUNING are of every attention")));
  }
  attach_adapters(*model, adapters());
  const at::Tensor packed = at::tensor({1, 1, 2, 2}, at::kLong).view({1, 4});
  EXPECT_THROW(model->forward({packed, packed, {}}), c10::ValueError);
  attention(model, 1).detach(kDefaultAdapter);
  const TemporaryFolder folder;
  EXPECT_THAT(
      [&] { save_adapter(*model, folder / "adapter"); },
      ThrowsMessage<c10::ValueError>(HasSubstr("one folder holds one of each attention")));
  attention(model, 1).attach(
      "other", std::make_shared<PrefixAdapter>(attention(model, 1), PrefixTuningOptions().num_virtual_tokens(4)));
  EXPECT_THAT(
      [&] { logits_of(model); }, ThrowsMessage<c10::ValueError>(HasSubstr("the layers of a model share theirs")));
}

TEST(PrefixTuning, RefusesOptionsOutOfRange) {
  EXPECT_THROW(prefix_tuning(PrefixTuningOptions().num_virtual_tokens(0)), c10::ValueError);
  EXPECT_THROW(prefix_tuning(PrefixTuningOptions().initial_std(-1.0)), c10::ValueError);
}

TEST(PrefixTuning, ItsFolderIsReadAsStrictlyAsAny) {
  const TemporaryFolder folder;
  auto model = tiny_llama();
  attach_adapters(*model, adapters());
  save_adapter(*model, folder.path());
  const auto failure = [&](const char* field, const json& value) { return failure_with(folder.path(), field, value); };
  EXPECT_EQ(failure("num_layers", nullptr), "nothing was thrown");
  EXPECT_THAT(failure("num_layers", 3), HasSubstr("adapter_config.json: num_layers is 3, and the model has 2"));
  EXPECT_THAT(failure("token_dim", 16), HasSubstr("token_dim is 16, and the model has 8"));
  EXPECT_THAT(failure("num_attention_heads", 4), HasSubstr("num_attention_heads is 4, and the model has 2"));
  EXPECT_THAT(failure("num_virtual_tokens", nullptr), HasSubstr("num_virtual_tokens is missing"));
  EXPECT_THAT(failure("num_virtual_tokens", 0), HasSubstr("num_virtual_tokens must be at least 1, not 0"));
  EXPECT_THAT(failure("num_virtual_tokens", int64_t{1} << 60), HasSubstr("prompt_embeddings must have shape"));
  EXPECT_THAT(failure("num_transformer_submodules", 2), HasSubstr("num_transformer_submodules must be 1"));
  EXPECT_THAT(failure("prefix_projection", true), HasSubstr("prefix_projection is not supported: true"));
  EXPECT_THAT(failure("init_weights", "x"), HasSubstr("init_weights must be null or zero"));
  EXPECT_THAT(failure("target_modules", json({"q_proj"})), HasSubstr("target_modules does not go with adapters of"));
  EXPECT_THAT(failure("modules_to_save", json({"lm_head"})), HasSubstr("modules_to_save does not go with"));
  const std::filesystem::path weights = folder / "adapter_model.safetensors";
  const at::Tensor stored = SafetensorsFile(weights).tensor("prompt_embeddings").clone();
  save_safetensors(weights, {{"prompt_embeddings", stored}, {"prompt", stored.clone()}});
  EXPECT_THAT(failure("revision", nullptr), HasSubstr("tensor prompt belongs to no module"));
  save_safetensors(weights, {{"prompt", stored}});
  EXPECT_THAT(failure("revision", nullptr), HasSubstr("tensor prompt_embeddings is missing"));
  auto other = tiny_llama();
  save_adapter(*model, folder.path());
  EXPECT_THAT(
      [&] { load_adapter(*other, folder.path(), LoadAdapterOptions().dropout(0.1)); },
      ThrowsMessage<c10::ValueError>(HasSubstr("adapters of the kind PREFIX_TUNING have none")));
}

} // namespace
} // namespace rora
