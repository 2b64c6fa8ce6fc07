#include <rora/model/pruning.h>

#include "checkpoint/support.h"
#include "support/gradcheck.h"
#include "support/test_data.h"
#include "support/tiny_llama.h"

#include <rora/adapters/attach.h>
#include <rora/adapters/gradient_capture.h>
#include <rora/checkpoint/file.h>
#include <rora/model/pretrained.h>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

namespace rora {
namespace {

using ::testing::HasSubstr;
using testing::message_of;
using testing::relative_error;
using testing::TemporaryFolder;
using testing::test_data;
using testing::tiny_llama;

/// Four groups of two query heads whose width is not hidden_size's, and two layers.
DecoderOptions grouped() {
  return testing::tiny_llama_options().hidden_size(48).num_attention_heads(8).num_key_value_heads(4).head_dim(8);
}

DecoderForCausalLM exact_model(const DecoderOptions& options) {
  auto model = tiny_llama(options);
  model->to(at::kDouble);
  return model;
}

at::Tensor logits(CausalLM model) {
  at::NoGradGuard no_grad;
  return model->forward({at::arange(3, 24, at::kLong).view({1, 21}), {}, {}});
}

PruneOptions share_of(double share, bool by_layer = false) {
  return PruneOptions().share(share).by_layer(by_layer);
}

std::vector<KeptParts> kept_by_magnitude(const CausalLM& model, const PruneOptions& options) {
  return choose_kept(*model, magnitude_importance(*model), options);
}

AttentionImpl& attention_of(const CausalLM& model, size_t layer) {
  return *testing::decoder_of(model)->layers->ptr<DecoderLayerImpl>(layer)->self_attn;
}

MLPImpl& mlp_of(const CausalLM& model, size_t layer) {
  return *testing::decoder_of(model)->layers->ptr<DecoderLayerImpl>(layer)->mlp;
}

/// Zero in all columns, `width` for each part, but those of the kept ones.
void keep_columns(at::Tensor& weight, const std::vector<int64_t>& kept, int64_t width) {
  const at::Tensor mask = at::zeros({weight.size(1) / width, width}, weight.options());
  for (const int64_t part : kept) {
    mask[part].fill_(1);
  }
  weight.set_data(weight * mask.flatten());
}

/// Lets what is not kept have no effect.
void silence(const CausalLM& model, const std::vector<KeptParts>& kept) {
  at::NoGradGuard no_grad;
  for (size_t i = 0; i < kept.size(); ++i) {
    const LayerShape shape = model->options.layer_shape(static_cast<int64_t>(i));
    if (shape.num_attention_heads > 0) {
      const int64_t queries = shape.num_attention_heads / shape.num_key_value_heads;
      keep_columns(attention_of(model, i).o_proj->weight, kept[i].groups, queries * model->options.resolved_head_dim());
    }
    if (shape.intermediate_size > 0) {
      keep_columns(mlp_of(model, i).down_proj->weight, kept[i].channels, 1);
    }
  }
}

double removed_share(const CausalLM& model, const CausalLM& pruned) {
  const auto before = static_cast<double>(decoder_layer_parameters(*model));
  return (before - static_cast<double>(decoder_layer_parameters(*pruned))) / before;
}

struct Form {
  std::string name;
  DecoderOptions options;
};

class PruneForm : public ::testing::TestWithParam<Form> {};

TEST_P(PruneForm, ComputesWhatTheModelDoesWhereTheRestIsZero) {
  for (const bool by_layer : {false, true}) {
    for (const double share : {0.2, 0.5, 0.7}) {
      const CausalLM model = exact_model(GetParam().options);
      const auto kept = kept_by_magnitude(model, share_of(share, by_layer));
      const CausalLM pruned = prune(*model, kept);
      EXPECT_LT(decoder_layer_parameters(*pruned), decoder_layer_parameters(*model));
      const at::Tensor before = logits(model);
      silence(model, kept);
      EXPECT_GT(relative_error(logits(model), before), 1e-3) << "the test could not fail";
      EXPECT_LT(relative_error(logits(pruned), logits(model)), 1e-12) << share << (by_layer ? " by layer" : "");
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    , PruneForm,
    ::testing::Values(
        Form{"Grouped", grouped()}, Form{"EveryHeadItsOwn", grouped().num_key_value_heads(8)},
        Form{"Biases", grouped().attention_bias(true).mlp_bias(true)}, Form{"NormsOfHeads", grouped().qk_norm(true)},
        Form{"Tied", grouped().tie_word_embeddings(true)},
        Form{"OneGroup", grouped().num_key_value_heads(1).intermediate_size(200)}),
    [](const auto& info) { return info.param.name; });

TEST(Prune, LayersMayLackAHalf) {
  const CausalLM model = exact_model(grouped().num_hidden_layers(3).layer_shapes({{8, 4, 24}, {0, 0, 24}, {8, 4, 0}}));
  const auto kept = kept_by_magnitude(model, share_of(0.4, /*by_layer=*/true));
  const CausalLM pruned = prune(*model, kept);
  EXPECT_EQ(pruned->options.layer_shape(1).num_attention_heads, 0);
  EXPECT_EQ(pruned->options.layer_shape(2).intermediate_size, 0);
  silence(model, kept);
  EXPECT_LT(relative_error(logits(pruned), logits(model)), 1e-12);
}

TEST(Prune, WithoutAShareIsTheModelItself) {
  for (const bool by_layer : {false, true}) {
    TemporaryFolder folder;
    const CausalLM model = tiny_llama(grouped());
    const CausalLM pruned = prune(*model, kept_by_magnitude(model, share_of(0.0, by_layer)));
    const auto originals = model->named_parameters();
    ASSERT_EQ(pruned->named_parameters().size(), originals.size());
    for (const auto& item : pruned->named_parameters()) {
      EXPECT_TRUE(item.value().is_alias_of(originals[item.key()])) << item.key();
    }
    save_model(*model, folder / "model");
    save_model(*pruned, folder / "pruned");
    for (const char* file : {"model.safetensors", "config.json"}) {
      EXPECT_EQ(read_file(folder / "pruned" / file), read_file(folder / "model" / file)) << file;
    }
  }
}

TEST(Prune, TakesPartsWithoutWeightsFirstWhichChangesNothing) {
  for (const bool by_layer : {false, true}) {
    const CausalLM model = exact_model(grouped().attention_bias(true));
    at::NoGradGuard no_grad;
    for (size_t layer = 0; layer < 2; ++layer) {
      const auto group = static_cast<int64_t>(layer) + 1; // of 4
      AttentionImpl& attention = attention_of(model, layer);
      attention.q_proj->weight.narrow(0, 16 * group, 16).zero_();
      attention.k_proj->weight.narrow(0, 8 * group, 8).zero_();
      attention.v_proj->weight.narrow(0, 8 * group, 8).zero_();
      attention.o_proj->weight.narrow(1, 16 * group, 16).zero_();
      MLPImpl& mlp = mlp_of(model, layer);
      const int64_t channel = 6 * group; // and the 5 behind it, of 24
      mlp.gate_proj->weight.narrow(0, channel, 6).zero_();
      mlp.up_proj->weight.narrow(0, channel, 6).zero_();
      mlp.down_proj->weight.narrow(1, channel, 6).zero_();
    }
    const auto kept = kept_by_magnitude(model, share_of(0.25, by_layer));
    EXPECT_EQ(kept[0].groups, (std::vector<int64_t>{0, 2, 3}));
    EXPECT_EQ(kept[1].groups, (std::vector<int64_t>{0, 1, 3}));
    EXPECT_EQ(kept[0].channels.size(), 18u);
    EXPECT_EQ(kept[1].channels.size(), 18u);
    EXPECT_LT(relative_error(logits(prune(*model, kept)), logits(model)), 1e-12);
  }
}

/// Of parts whose weights differ by much, the model is changed less where the least important go than where they stay.
TEST(Prune, BetterLosesTheLeastImportantPartsThanTheMostImportantOnes) {
  CausalLM model = exact_model(grouped());
  at::manual_seed(3);
  for (size_t layer = 0; layer < 2; ++layer) {
    at::NoGradGuard no_grad;
    attention_of(model, layer).o_proj->weight.mul_(at::pow(10.0, -at::arange(4)).repeat_interleave(16));
    mlp_of(model, layer).down_proj->weight.mul_(at::pow(10.0, -2 * at::rand({24}, at::kDouble)));
  }
  const at::Tensor ids = at::arange(3, 24, at::kLong).view({1, 21});
  const auto gradients =
      capture_gradients(*model, prunable_modules(*model), 1, [&](int64_t) { model->loss({ids}, ids).sum.backward(); });
  for (const auto& importance : {magnitude_importance(*model), taylor_importance(*model, gradients)}) {
    std::vector<LayerImportance> opposite;
    for (const LayerImportance& each : importance) {
      opposite.push_back({-each.groups, -each.channels});
    }
    const auto change = [&](const std::vector<LayerImportance>& by) {
      return relative_error(logits(prune(*model, choose_kept(*model, by, share_of(0.4)))), logits(model));
    };
    EXPECT_LT(3 * change(importance), change(opposite));
  }
}

/// What a group's and a channel's weights are, in one row each.
at::Tensor weights_of_group(const std::function<at::Tensor(const Projection&)>& tensor, AttentionImpl& of, int64_t i) {
  return at::cat(
      {tensor(of.q_proj).narrow(0, 16 * i, 16).flatten(), tensor(of.k_proj).narrow(0, 8 * i, 8).flatten(),
       tensor(of.v_proj).narrow(0, 8 * i, 8).flatten(), tensor(of.o_proj).narrow(1, 16 * i, 16).flatten()});
}

at::Tensor weights_of_channel(const std::function<at::Tensor(const Projection&)>& tensor, MLPImpl& of, int64_t i) {
  return at::cat({tensor(of.gate_proj)[i], tensor(of.up_proj)[i], tensor(of.down_proj).select(1, i)});
}

TEST(Importance, IsTheNormOfAPartsWeights) {
  const CausalLM model = exact_model(grouped());
  const auto weight = [](const Projection& projection) { return projection->weight; };
  const auto importance = magnitude_importance(*model);
  ASSERT_EQ(importance.size(), 2u);
  for (size_t layer = 0; layer < 2; ++layer) {
    ASSERT_EQ(importance[layer].groups.numel(), 4);
    ASSERT_EQ(importance[layer].channels.numel(), 24);
    for (int64_t i = 0; i < 4; ++i) {
      const at::Tensor weights = weights_of_group(weight, attention_of(model, layer), i);
      EXPECT_NEAR(importance[layer].groups[i].item<double>(), weights.norm().item<double>(), 1e-12);
    }
    for (int64_t i = 0; i < 24; ++i) {
      const at::Tensor weights = weights_of_channel(weight, mlp_of(model, layer), i);
      EXPECT_NEAR(importance[layer].channels[i].item<double>(), weights.norm().item<double>(), 1e-12);
    }
  }
}

TEST(Importance, ByGradientIsTheSumOfItsProductsWithTheWeights) {
  const CausalLM model = exact_model(grouped());
  std::map<std::string, WeightStatistics> gradients;
  std::map<const ProjectionImpl*, at::Tensor> products;
  at::manual_seed(4);
  const auto modules = model->named_modules();
  for (const std::string& name : prunable_modules(*model)) {
    const auto* projection = modules[name]->as<ProjectionImpl>();
    gradients[name].gradient = at::randn_like(projection->weight);
    products[projection] = (gradients[name].gradient * projection->weight).abs();
  }
  const auto importance = taylor_importance(*model, gradients);
  const auto product = [&](const Projection& projection) { return products.at(projection.get()); };
  EXPECT_NEAR(
      importance[1].groups[2].item<double>(), weights_of_group(product, attention_of(model, 1), 2).sum().item<double>(),
      1e-12);
  EXPECT_NEAR(
      importance[0].channels[7].item<double>(), weights_of_channel(product, mlp_of(model, 0), 7).sum().item<double>(),
      1e-12);

  auto bad = gradients;
  bad.erase("model.layers.1.mlp.up_proj");
  EXPECT_THAT(
      message_of<c10::ValueError>([&] { taylor_importance(*model, bad); }),
      HasSubstr("there is no gradient of model.layers.1.mlp.up_proj"));
  bad = gradients;
  bad["model.layers.0.self_attn.q_proj"].gradient = at::ones({2, 3});
  EXPECT_THAT(
      message_of<c10::ValueError>([&] { taylor_importance(*model, bad); }), HasSubstr("must have shape [64, 48]"));
  bad = gradients;
  bad["model.layers.0.self_attn.q_proj"].gradient = at::full({64, 48}, std::nan(""));
  EXPECT_THAT(message_of<c10::ValueError>([&] { taylor_importance(*model, bad); }), HasSubstr("is not finite"));
}

TEST(ChooseKept, MeetsTheShareToHalfAChannel) {
  const CausalLM model = tiny_llama(grouped());
  const double channel = 3 * 48 / static_cast<double>(decoder_layer_parameters(*model));
  for (double share = 0.0; share < 0.85; share += 0.05) {
    const CausalLM alike = prune(*model, kept_by_magnitude(model, share_of(share)));
    EXPECT_TRUE(alike->options.layer_shapes().empty());
    EXPECT_NEAR(removed_share(model, alike), share, channel * 1.001); // half of one of each of two layers
    const CausalLM unlike = prune(*model, kept_by_magnitude(model, share_of(share, /*by_layer=*/true)));
    EXPECT_NEAR(removed_share(model, unlike), share, channel * 0.501);
    for (const CausalLM& pruned : {alike, unlike}) {
      for (int64_t layer = 0; layer < 2; ++layer) {
        const LayerShape shape = pruned->options.layer_shape(layer);
        EXPECT_EQ(shape.num_attention_heads, 2 * shape.num_key_value_heads);
      }
      EXPECT_EQ(pruned->options.resolved_head_dim(), 8);
    }
  }
}

TEST(ChooseKept, RanksLayersAgainstOneAnotherAndLeavesEachOnePart) {
  const CausalLM model = tiny_llama(grouped());
  {
    at::NoGradGuard no_grad;
    for (const Projection& each :
         {attention_of(model, 1).q_proj, attention_of(model, 1).k_proj, attention_of(model, 1).v_proj,
          attention_of(model, 1).o_proj, mlp_of(model, 1).gate_proj, mlp_of(model, 1).up_proj,
          mlp_of(model, 1).down_proj}) {
      each->weight.mul_(1e-3);
    }
  }
  const auto importance = magnitude_importance(*model);
  const auto kept = choose_kept(*model, importance, share_of(0.55, /*by_layer=*/true));
  EXPECT_EQ(kept[1].groups, std::vector<int64_t>{importance[1].groups.argmax().item<int64_t>()});
  EXPECT_EQ(kept[1].channels, std::vector<int64_t>{importance[1].channels.argmax().item<int64_t>()});
  EXPECT_GE(kept[0].groups.size(), 3u);
}

TEST(ChooseKept, PassesOverNumbersOfHeadsThatDoNotDivideTheHiddenSize) {
  const CausalLM model = tiny_llama(grouped().hidden_size(64));
  const CausalLM alike = prune(*model, kept_by_magnitude(model, share_of(0.25)));
  EXPECT_EQ(alike->options.num_attention_heads(), 8); // not 6, and not 4, which are as near
  EXPECT_NEAR(removed_share(model, alike), 0.25, 0.01);
  for (const auto& each : kept_by_magnitude(model, share_of(0.7))) {
    EXPECT_EQ(each.groups.size(), 1u);
  }
  const CausalLM other = tiny_llama(grouped().hidden_size(50)); // which 8 heads do not divide either
  EXPECT_EQ(kept_by_magnitude(other, share_of(0.25))[0].groups.size(), 3u);
}

TEST(ChooseKept, RefusesWhatCannotBe) {
  const CausalLM model = tiny_llama(grouped());
  const auto importance = magnitude_importance(*model);
  for (const double share : {-0.1, 1.0, std::nan("")}) {
    EXPECT_THAT(
        message_of<c10::ValueError>([&] { choose_kept(*model, importance, share_of(share)); }),
        HasSubstr("must be in [0, 1)"));
  }
  EXPECT_THAT(
      message_of<c10::ValueError>([&] { choose_kept(*model, importance, share_of(0.99)); }), HasSubstr("is the most"));
  EXPECT_THROW(choose_kept(*model, {importance[0]}, share_of(0.5)), c10::ValueError);
  auto bad = importance;
  bad[1].channels = bad[1].channels.narrow(0, 0, 23);
  EXPECT_THAT(
      message_of<c10::ValueError>([&] { choose_kept(*model, bad, share_of(0.5)); }),
      HasSubstr("model.layers.1.mlp must have the importance of 24 channels"));
  bad[1].channels = at::full({24}, std::nan(""), at::kDouble);
  EXPECT_THAT(message_of<c10::ValueError>([&] { choose_kept(*model, bad, share_of(0.5)); }), HasSubstr("not finite"));
  const CausalLM unlike = tiny_llama(grouped().layer_shapes({{8, 4, 24}, {4, 2, 24}}));
  EXPECT_THAT(message_of<c10::ValueError>([&] { kept_by_magnitude(unlike, share_of(0.5)); }), HasSubstr("by_layer"));
}

TEST(Prune, RefusesPartsThatAreNoneOfTheModels) {
  const CausalLM model = tiny_llama(grouped());
  const KeptParts fine{{0, 3}, {1, 2, 23}};
  EXPECT_EQ(prune(*model, {fine, fine})->options.intermediate_size(), 3);
  const std::vector<KeptParts> bad{{{}, {1}},   {{0}, {}},     {{4}, {1}},   {{-1}, {1}},
                                   {{0}, {24}}, {{1, 0}, {1}}, {{0, 0}, {1}}};
  for (const KeptParts& each : bad) {
    EXPECT_THROW(prune(*model, {fine, each}), c10::ValueError);
  }
  EXPECT_THROW(prune(*model, {fine}), c10::ValueError);
}

/// Stands for a quantised weight.
class Halves : public ops::DenseWeight {
 public:
  explicit Halves(const at::Tensor& weight) : DenseWeight(weight.to(at::kHalf).to(weight.scalar_type())) {}
  at::Tensor tensor() const override {
    return {};
  }
};

TEST(Prune, RefusesAdaptersAndWeightsThatAreNotDense) {
  const auto kept = kept_by_magnitude(tiny_llama(grouped()), share_of(0.5));
  CausalLM model = tiny_llama(grouped());
  const auto refusal = [&] {
    EXPECT_THROW(magnitude_importance(*model), c10::ValueError);
    EXPECT_THROW(prunable_modules(*model), c10::ValueError);
    return message_of<c10::ValueError>([&] { prune(*model, kept); });
  };
  attach_adapters(*model, AdapterOptions());
  EXPECT_THAT(refusal(), HasSubstr("has the adapter 'default'"));
  merge_adapters(*model);
  EXPECT_THAT(refusal(), HasSubstr("merged"));
  unmerge_adapters(*model);
  detach_adapters(*model);
  EXPECT_NO_THROW(prune(*model, kept));
  Projection& projection = mlp_of(model, 0).up_proj;
  projection->set_base(std::make_shared<Halves>(projection->weight));
  EXPECT_THAT(refusal(), HasSubstr("only a dense weight"));
}

} // namespace
} // namespace rora
