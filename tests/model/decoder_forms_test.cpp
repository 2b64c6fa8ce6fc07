#include "plain_decoder.h"
#include "support/gradcheck.h"
#include "support/tiny_llama.h"

#include <rora/ops/cross_entropy.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

namespace rora {
namespace {

using testing::gradient_error;
using testing::PlainDecoder;
using testing::relative_error;

struct Form {
  const char* name;
  DecoderOptions options;
};

DecoderOptions with_everything() {
  ProjectionBiases bias;
  bias.q = bias.k = bias.v = true;
  return testing::tiny_llama_options()
      .num_hidden_layers(3)
      .bias(bias)
      .qk_norm(true)
      .hidden_act(Activation::kGELUTanh)
      .tie_word_embeddings(true)
      .sliding_window(3)
      .layer_types({LayerType::kSlidingAttention, LayerType::kFullAttention, LayerType::kSlidingAttention})
      .no_rope_layers({1, 0, 1})
      .embedding_multiplier(1.7)
      .residual_multiplier(0.4)
      .attention_multiplier(0.2)
      .logits_scaling(3.0);
}

std::vector<Form> forms() {
  const auto with = [](const auto& change) {
    DecoderOptions options = testing::tiny_llama_options();
    change(options);
    return options;
  };
  std::vector<Form> forms{
      {"llama", testing::tiny_llama_options()},
      {"qk_norm", with([](DecoderOptions& options) { options.qk_norm(true); })},
      {"gelu", with([](DecoderOptions& options) { options.hidden_act(Activation::kGELUTanh); })},
      {"tied", with([](DecoderOptions& options) { options.tie_word_embeddings(true); })},
      {"window", with([](DecoderOptions& options) { options.sliding_window(3); })},
      {"window_of_two", with([](DecoderOptions& options) { options.sliding_window(2); })},
      {"window_of_a_layer", with([](DecoderOptions& options) {
         options.sliding_window(4).layer_types({LayerType::kFullAttention, LayerType::kSlidingAttention});
       })},
      {"no_rope_layer", with([](DecoderOptions& options) {
         options.no_rope_layers({1, 0});
       })},
      {"embedding_multiplier", with([](DecoderOptions& options) { options.embedding_multiplier(12.0); })},
      {"residual_multiplier", with([](DecoderOptions& options) { options.residual_multiplier(0.22); })},
      {"attention_multiplier", with([](DecoderOptions& options) { options.attention_multiplier(0.0078125); })},
      {"logits_scaling", with([](DecoderOptions& options) { options.logits_scaling(8.0); })},
      {"norms_after", with([](DecoderOptions& options) { options.norm_placement(NormPlacement::kAfter); })},
      {"norms_before_and_after",
       with([](DecoderOptions& options) { options.norm_placement(NormPlacement::kBeforeAndAfter); })},
      {"norms_that_add_one", with([](DecoderOptions& options) { options.norm_adds_one(true).qk_norm(true); })},
      {"qk_norm_of_all_heads", with([](DecoderOptions& options) { options.qk_norm(true).qk_norm_of_all_heads(true); })},
      {"rope_of_sliding_layers", with([](DecoderOptions& options) {
         options.sliding_window(4)
             .layer_types({LayerType::kFullAttention, LayerType::kSlidingAttention})
             .sliding_rope(RopeOptions().theta(20.0));
       })},
      {"everything", with_everything()},
      {"everything_else",
       with_everything()
           .norm_placement(NormPlacement::kBeforeAndAfter)
           .norm_adds_one(true)
           .qk_norm_of_all_heads(true)
           .sliding_rope(RopeOptions().theta(20.0))}};
  const auto with_bias = [&](const char* name, bool ProjectionBiases::*which) {
    ProjectionBiases bias;
    bias.*which = true;
    forms.push_back({name, with([&](DecoderOptions& options) { options.bias(bias); })});
  };
  with_bias("bias_of_q", &ProjectionBiases::q);
  with_bias("bias_of_k", &ProjectionBiases::k);
  with_bias("bias_of_v", &ProjectionBiases::v);
  with_bias("bias_of_o", &ProjectionBiases::o);
  with_bias("bias_of_gate", &ProjectionBiases::gate);
  with_bias("bias_of_up", &ProjectionBiases::up);
  with_bias("bias_of_down", &ProjectionBiases::down);
  return forms;
}

DecoderForCausalLM in_double(const DecoderOptions& options) {
  DecoderForCausalLM model = testing::tiny_llama(options);
  model->to(at::kDouble);
  return model;
}

at::Tensor some_ids() {
  return (at::arange(18, at::kLong) * 7 % 32).view({2, 9});
}

/// Rows of one sequence, padded in three ways, and packed.
std::vector<std::pair<const char*, at::Tensor>> masks() {
  const auto mask = [](std::vector<int64_t> first, std::vector<int64_t> second) {
    return at::stack({at::tensor(first, at::kLong), at::tensor(second, at::kLong)});
  };
  const std::vector<int64_t> whole(9, 1);
  return {
      {"whole", mask(whole, whole)},
      {"padded on the left", mask({0, 0, 1, 1, 1, 1, 1, 1, 1}, whole)},
      {"padded on the right", mask({1, 1, 1, 1, 1, 1, 0, 0, 0}, whole)},
      {"padded amid", mask({1, 1, 1, 0, 0, 1, 1, 1, 1}, whole)},
      {"packed", mask({1, 1, 1, 1, 1, 2, 2, 2, 0}, {1, 2, 2, 2, 2, 2, 3, 3, 3})}};
}

class DecoderForms : public ::testing::TestWithParam<Form> {};

TEST_P(DecoderForms, ComputeWhatTheirFormulaSays) {
  DecoderForCausalLM model = in_double(GetParam().options);
  const at::Tensor ids = some_ids();
  for (const auto& [name, mask] : masks()) {
    at::NoGradGuard no_grad;
    const at::Tensor real = (mask > 0).unsqueeze(-1);
    const at::Tensor expected = PlainDecoder(model).logits(model->embed(ids), mask) * real;
    EXPECT_LT(relative_error(model->forward({ids, mask, {}}) * real, expected), 1e-6) << name; // angles are in fp32
    if (std::string(name) == "whole") {
      EXPECT_LT(relative_error(model->forward({ids, {}, {}}), expected), 1e-6) << "without a mask";
    }
  }
}

TEST_P(DecoderForms, HaveTheGradientsOfTheirFormula) {
  DecoderForCausalLM model = in_double(GetParam().options);
  for (at::Tensor& parameter : model->parameters()) {
    parameter.set_requires_grad(true);
  }
  const at::Tensor ids = some_ids();
  const at::Tensor mask = masks().back().second;
  const at::Tensor labels = ids.masked_fill(mask == 0, kIgnoreIndex);
  const auto gradients = [&](const at::Tensor& loss) {
    model->zero_grad();
    loss.backward();
    std::vector<at::Tensor> all;
    for (const at::Tensor& parameter : model->parameters()) {
      all.push_back(parameter.grad().clone());
    }
    return all;
  };
  const auto found = gradients(model->loss({ids, mask, {}}, labels).sum);
  const at::Tensor logits = PlainDecoder(model).logits(model->embed(ids), mask).slice(1, 0, -1).flatten(0, 1);
  const auto expected =
      gradients(at::cross_entropy_loss(logits, labels.slice(1, 1).flatten(), {}, at::Reduction::Sum, kIgnoreIndex));
  const auto names = model->named_parameters().keys();
  for (size_t i = 0; i < names.size(); ++i) {
    EXPECT_GT(expected[i].abs().max().item<double>(), 0.0) << names[i];
    EXPECT_LT(relative_error(found[i], expected[i]), 1e-5) << names[i];
  }
}

TEST_P(DecoderForms, AnswerTokenByTokenWithACacheAsAtOnce) {
  DecoderForCausalLM model = in_double(GetParam().options);
  at::NoGradGuard no_grad;
  const at::Tensor ids = some_ids();
  const at::Tensor mask = masks()[1].second;
  KeyValueCache cache;
  std::vector<at::Tensor> steps{model->forward({ids.slice(1, 0, 4), mask.slice(1, 0, 4), {}}, &cache)};
  for (int64_t token = 4; token < ids.size(1); ++token) {
    steps.push_back(model->forward({ids.slice(1, token, token + 1), mask.slice(1, 0, token + 1), {}}, &cache));
  }
  const at::Tensor real = mask.unsqueeze(-1);
  EXPECT_LT(relative_error(at::cat(steps, 1) * real, model->forward({ids, mask, {}}) * real), 1e-9);
}

INSTANTIATE_TEST_SUITE_P(, DecoderForms, ::testing::ValuesIn(forms()), [](const auto& info) {
  return std::string(info.param.name);
});

TEST(DecoderFormsBackward, IsThatOfFiniteDifferences) {
  DecoderForCausalLM model = in_double(with_everything());
  const at::Tensor ids = some_ids();
  const auto logits = [&](const std::vector<at::Tensor>& inputs) {
    return std::vector<at::Tensor>{model->forward({ids, masks().back().second, {}, inputs[0]})};
  };
  EXPECT_LT(gradient_error(logits, {model->embed(ids).detach()}), 1e-6);
}

TEST(DecoderFormsWindow, ChangesNothingWhereItReachesOverTheRow) {
  DecoderForCausalLM whole = in_double(testing::tiny_llama_options());
  DecoderForCausalLM windowed = in_double(testing::tiny_llama_options().sliding_window(9));
  at::NoGradGuard no_grad;
  EXPECT_TRUE(at::equal(windowed->forward({some_ids(), {}, {}}), whole->forward({some_ids(), {}, {}})));
}

/// As Gemma does: one is added in fp32, and the product is rounded once.
TEST(DecoderFormsInBFloat16, NormsThatAddOneRoundOnce) {
  at::manual_seed(5);
  RMSNorm norm(16, 1e-6, /*adds_one=*/true);
  at::NoGradGuard no_grad;
  norm->weight.normal_(0.0, 0.2);
  norm->to(at::kBFloat16);
  const at::Tensor x = at::randn({3, 4, 16}).to(at::kBFloat16);
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor normed = wide * (wide.square().mean(-1, true) + 1e-6).rsqrt();
  const at::Tensor expected = (normed * (1.0 + norm->weight.to(at::kFloat))).to(at::kBFloat16);
  EXPECT_TRUE(at::equal(norm->forward(x), expected));
  EXPECT_FALSE(at::equal(normed.to(at::kBFloat16) * (1.0 + norm->weight), expected)) << "the test could not fail";
}

TEST(DecoderFormsInBFloat16, TheEmbeddingsMultiplierIsRoundedWhereItIsAskedFor) {
  const double root = std::sqrt(1152.0); // 33.94, and 34 in bfloat16
  const auto of = [&](double multiplier, bool rounds) {
    auto model = testing::tiny_llama(
        testing::tiny_llama_options().embedding_multiplier(multiplier).embedding_multiplier_rounds(rounds));
    model->to(at::kBFloat16);
    at::NoGradGuard no_grad;
    return model->forward({some_ids(), {}, {}});
  };
  EXPECT_TRUE(at::equal(of(root, true), of(34.0, false)));
  EXPECT_FALSE(at::equal(of(root, false), of(34.0, false)));
}

TEST(DecoderFormsParameters, AreNamedAsInTransformers) {
  ProjectionBiases bias;
  bias.q = true;
  DecoderForCausalLM model(testing::tiny_llama_options().bias(bias).qk_norm(true));
  const auto parameters = model->named_parameters();
  EXPECT_EQ(parameters["model.layers.1.self_attn.q_norm.weight"].sizes(), at::IntArrayRef({4}));
  EXPECT_EQ(parameters["model.layers.1.self_attn.k_norm.weight"].sizes(), at::IntArrayRef({4}));
  EXPECT_TRUE(parameters.contains("model.layers.0.self_attn.q_proj.bias"));
  EXPECT_FALSE(parameters.contains("model.layers.0.self_attn.k_proj.bias"));
  const auto names = [](NormPlacement placement) {
    std::vector<std::string> found;
    DecoderForCausalLM of(testing::tiny_llama_options().norm_placement(placement));
    for (const std::string& name : of->named_parameters().keys()) {
      if (name.starts_with("model.layers.0.") && name.find("norm") != std::string::npos) {
        found.push_back(name.substr(15));
      }
    }
    return found;
  };
  EXPECT_EQ(
      names(NormPlacement::kBefore),
      (std::vector<std::string>{"input_layernorm.weight", "post_attention_layernorm.weight"}));
  EXPECT_EQ(
      names(NormPlacement::kAfter),
      (std::vector<std::string>{"post_attention_layernorm.weight", "post_feedforward_layernorm.weight"}));
  EXPECT_EQ(
      names(NormPlacement::kBeforeAndAfter),
      (std::vector<std::string>{
          "input_layernorm.weight", "post_attention_layernorm.weight", "pre_feedforward_layernorm.weight",
          "post_feedforward_layernorm.weight"}));
}

TEST(DecoderOptions, NameTheFieldThatContradictsAnother) {
  const std::vector<std::pair<std::string, DecoderOptions>> bad{
      {"layer_types must name each", testing::tiny_llama_options().sliding_window(3).layer_types({{}})},
      {"no_rope_layers must name each", testing::tiny_llama_options().no_rope_layers({1, 1, 1})},
      {"no_rope_layers must hold 0 and 1", testing::tiny_llama_options().no_rope_layers({1, 2})},
      {"sliding_window must not be negative", testing::tiny_llama_options().sliding_window(-1)},
      {"sliding_window is absent",
       testing::tiny_llama_options().layer_types({LayerType::kSlidingAttention, LayerType::kFullAttention})},
      {"embedding_multiplier", testing::tiny_llama_options().embedding_multiplier(0.0)},
      {"residual_multiplier", testing::tiny_llama_options().residual_multiplier(NAN)},
      {"attention_multiplier", testing::tiny_llama_options().attention_multiplier(-1.0)},
      {"logits_scaling", testing::tiny_llama_options().logits_scaling(0.0)},
      {"qk_norm_of_all_heads needs qk_norm", testing::tiny_llama_options().qk_norm_of_all_heads(true)},
      {"rope_theta must be positive", testing::tiny_llama_options().sliding_rope(RopeOptions().theta(0.0))},
      {"head_dim must be even", testing::tiny_llama_options().head_dim(3)}};
  for (const auto& [message, options] : bad) {
    try {
      options.validate();
      ADD_FAILURE() << message;
    } catch (const c10::ValueError& error) {
      EXPECT_NE(std::string(error.what()).find(message), std::string::npos) << error.what();
    }
  }
  EXPECT_NO_THROW(testing::tiny_llama_options().head_dim(3).no_rope_layers({0, 0}).validate());
}

} // namespace
} // namespace rora
