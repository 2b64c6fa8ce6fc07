#include "plain_decoder.h"
#include "support/gradcheck.h"
#include "support/test_data.h"
#include "support/tiny_llama.h"

#include <rora/model/generation.h>
#include <rora/model/pretrained.h>
#include <rora/ops/cross_entropy.h>
#include <rora/training/step_graphs.h>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace rora {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::PlainDecoder;
using testing::relative_error;

/// Trained keys and values as they are.
class Prefix : public AttentionAdapter {
 public:
  Prefix(int64_t length, int64_t kv_heads, int64_t head_dim)
      : keys(register_parameter("keys", at::randn({length, kv_heads, head_dim}))),
        values(register_parameter("values", at::randn({length, kv_heads, head_dim}))) {}

  std::pair<at::Tensor, at::Tensor> prefix(const AttentionImpl&) override {
    ++asked;
    return {keys, values};
  }
  int64_t prefix_length() const override {
    return keys.size(0);
  }

  at::Tensor keys;
  at::Tensor values;
  int64_t asked = 0;
};

/// mlp(x) + U·tanh(D·x).
class Parallel : public MLPAdapter {
 public:
  Parallel(int64_t hidden, int64_t inner)
      : down(register_parameter("down", at::randn({inner, hidden}))),
        up(register_parameter("up", at::zeros({hidden, inner}))) {}

  at::Tensor forward(MLPImpl& mlp, const at::Tensor& x) override {
    return mlp.forward(x) + beside(x);
  }
  at::Tensor beside(const at::Tensor& x) const {
    return at::linear(at::linear(x, down.to(x.scalar_type())).tanh(), up.to(x.scalar_type()));
  }
  int64_t kept_numbers(const MLPImpl&) const override {
    return down.size(0);
  }

  at::Tensor down;
  at::Tensor up;
};

DecoderLayerImpl& layer(DecoderForCausalLM model, int64_t index) {
  return model->model->layers->at<DecoderLayerImpl>(static_cast<size_t>(index));
}

class ModuleAdapters : public ::testing::Test {
 protected:
  ModuleAdapters() {
    model->to(at::kDouble);
  }

  /// A prefix of 2 keys in layer 0 and of 3 in layer 1, and the formula of them.
  void attach_prefixes() {
    at::manual_seed(3);
    for (int64_t index = 0; index < 2; ++index) {
      auto prefix = std::make_shared<Prefix>(2 + index, 2, 4);
      prefix->to(at::kDouble);
      layer(model, index).self_attn->attach("soft", prefix);
      prefixes.push_back(prefix);
    }
  }
  at::Tensor plain_logits(const at::Tensor& mask) {
    PlainDecoder plain(model);
    for (size_t index = 0; index < prefixes.size(); ++index) {
      plain.prefixes[static_cast<int64_t>(index)] = {prefixes[index]->keys, prefixes[index]->values};
    }
    return plain.logits(model->embed(ids), mask);
  }

  DecoderForCausalLM model = testing::tiny_llama();
  at::Tensor ids = (at::arange(14, at::kLong) * 5 % 32).view({2, 7});
  at::Tensor left = at::tensor({0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, at::kLong).view({2, 7});
  std::vector<std::shared_ptr<Prefix>> prefixes;
};

TEST_F(ModuleAdapters, APrefixIsSeenByEveryTokenOfEachRow) {
  const at::Tensor without = model->forward({ids, {}, {}});
  attach_prefixes();
  at::NoGradGuard no_grad;
  const at::Tensor whole = at::ones_like(ids);
  const at::Tensor found = model->forward({ids, {}, {}});
  EXPECT_LT(relative_error(found, plain_logits(whole)), 1e-6);
  EXPECT_GT(relative_error(found, without), 1e-3) << "the test could not fail";
  for (const at::Tensor& mask : {whole, left, left.flip(1)}) {
    const at::Tensor real = mask.unsqueeze(-1);
    EXPECT_LT(relative_error(model->forward({ids, mask, {}}) * real, plain_logits(mask) * real), 1e-6);
  }
}

TEST_F(ModuleAdapters, APrefixIsSeenBeyondAWindow) {
  model = testing::tiny_llama(testing::tiny_llama_options().sliding_window(2));
  model->to(at::kDouble);
  attach_prefixes();
  at::NoGradGuard no_grad;
  const at::Tensor real = left.unsqueeze(-1);
  EXPECT_LT(relative_error(model->forward({ids, left, {}}) * real, plain_logits(left) * real), 1e-6);
}

TEST_F(ModuleAdapters, APrefixIsPutOnceInFrontOfACache) {
  attach_prefixes();
  at::NoGradGuard no_grad;
  for (const at::Tensor& mask : {at::ones_like(ids), left}) {
    const int64_t asked = prefixes[1]->asked;
    KeyValueCache cache;
    std::vector<at::Tensor> steps{model->forward({ids.slice(1, 0, 3), mask.slice(1, 0, 3), {}}, &cache)};
    for (int64_t token = 3; token < ids.size(1); ++token) {
      steps.push_back(model->forward({ids.slice(1, token, token + 1), mask.slice(1, 0, token + 1), {}}, &cache));
    }
    EXPECT_EQ(prefixes[1]->asked, asked + 1);
    EXPECT_EQ(cache.size(), 7);
    EXPECT_EQ(cache.prefix(1), 3);
    const at::Tensor real = mask.unsqueeze(-1);
    EXPECT_LT(relative_error(at::cat(steps, 1) * real, model->forward({ids, mask, {}}) * real), 1e-9);
  }
}

TEST_F(ModuleAdapters, APrefixGoesWithTheRowsOfACache) {
  attach_prefixes();
  at::NoGradGuard no_grad;
  KeyValueCache cache;
  model->forward({ids, {}, {}}, &cache);
  cache.select(at::tensor({1, 1}, at::kLong));
  const at::Tensor next = at::tensor({4, 9}, at::kLong).view({2, 1});
  const at::Tensor rows = at::cat({ids.index_select(0, at::tensor({1, 1}, at::kLong)), next}, 1);
  const at::Tensor expected = model->forward({rows, {}, {}}).slice(1, 7);
  EXPECT_LT(relative_error(model->forward({next, {}, {}}, &cache), expected), 1e-9);
}

TEST_F(ModuleAdapters, AnotherPrefixThanTheCachesIsRefused) {
  at::NoGradGuard no_grad;
  KeyValueCache cache;
  model->forward({ids, {}, {}}, &cache);
  attach_prefixes();
  EXPECT_THROW(model->forward({ids.slice(1, 0, 1), {}, {}}, &cache), c10::ValueError);
}

TEST_F(ModuleAdapters, GenerationGoesOnBehindAPrefixAsWholeRowsDo) {
  attach_prefixes();
  at::NoGradGuard no_grad;
  for (const int64_t beams : {1, 2}) {
    const auto options = GenerationOptions().max_new_tokens(4).num_beams(beams).stop_token_ids({33});
    const auto both = generate(model, {{3, 4, 5}, {7, 8, 9, 10, 11}}, options);
    EXPECT_EQ(both[0], generate(model, {{3, 4, 5}}, options)[0]);
    if (beams == 1) {
      const at::Tensor row = at::tensor(std::vector<int64_t>{3, 4, 5, both[0][0], both[0][1]}, at::kLong).view({1, 5});
      EXPECT_EQ(both[0][2], model->forward({row, {}, {}})[0][4].argmax().item<int64_t>());
    }
  }
}

TEST_F(ModuleAdapters, PackedRowsCannotHaveAPrefix) {
  attach_prefixes();
  const at::Tensor packed = at::tensor({1, 1, 1, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1}, at::kLong).view({2, 7});
  try {
    model->forward({ids, packed, {}});
    ADD_FAILURE();
  } catch (const c10::ValueError& error) {
    EXPECT_THAT(error.what_without_backtrace(), HasSubstr("a row of several packed sequences cannot have one"));
  }
  for (int64_t index = 0; index < 2; ++index) {
    layer(model, index).self_attn->activate("");
  }
  EXPECT_NO_THROW(model->forward({ids, packed, {}}));
}

TEST_F(ModuleAdapters, AreTrainedAsParametersOfTheModel) {
  attach_prefixes();
  auto parallel = std::make_shared<Parallel>(16, 5);
  parallel->to(at::kDouble);
  layer(model, 1).mlp->attach("beside", parallel);
  std::vector<std::string> trained;
  for (const auto& item : model->named_parameters()) {
    if (item.value().requires_grad()) {
      trained.push_back(item.key());
    }
  }
  EXPECT_THAT(
      trained,
      ElementsAre(
          "model.layers.0.self_attn.soft.keys", "model.layers.0.self_attn.soft.values",
          "model.layers.1.self_attn.soft.keys", "model.layers.1.self_attn.soft.values",
          "model.layers.1.mlp.beside.down", "model.layers.1.mlp.beside.up"));
  layer(model, 0).self_attn->activate("");
  EXPECT_FALSE(prefixes[0]->keys.requires_grad());
}

TEST_F(ModuleAdapters, HaveTheGradientsOfTheirFormulaKeptOrRecomputed) {
  attach_prefixes();
  auto parallel = std::make_shared<Parallel>(16, 5);
  parallel->to(at::kDouble);
  {
    at::NoGradGuard no_grad;
    parallel->up.normal_();
  }
  layer(model, 0).mlp->attach("beside", parallel);
  model->train();
  const std::vector<at::Tensor> parameters{prefixes[0]->keys,   prefixes[0]->values, prefixes[1]->keys,
                                           prefixes[1]->values, parallel->down,      parallel->up};
  const auto gradients = [&](const at::Tensor& loss) {
    model->zero_grad();
    loss.backward();
    std::vector<at::Tensor> all;
    for (const at::Tensor& each : parameters) {
      all.push_back(each.grad().clone());
    }
    return all;
  };
  const at::Tensor labels = ids.masked_fill(left == 0, kIgnoreIndex);
  PlainDecoder plain(model);
  plain.prefixes = {{0, {parameters[0], parameters[1]}}, {1, {parameters[2], parameters[3]}}};
  plain.beside_mlp[0] = [&](const at::Tensor& x) { return parallel->beside(x); };
  const at::Tensor logits = plain.logits(model->embed(ids), left).slice(1, 0, -1).flatten(0, 1);
  const auto expected =
      gradients(at::cross_entropy_loss(logits, labels.slice(1, 1).flatten(), {}, at::Reduction::Sum, kIgnoreIndex));
  for (const auto checkpointing : {Checkpointing::kNone, Checkpointing::kSelective, Checkpointing::kFull}) {
    model->checkpointing = checkpointing;
    const auto found = gradients(model->loss({ids, left, {}}, labels).sum);
    for (size_t i = 0; i < parameters.size(); ++i) {
      EXPECT_GT(expected[i].abs().max().item<double>(), 0.0) << i;
      EXPECT_LT(relative_error(found[i], expected[i]), 1e-5) << i;
    }
  }
}

TEST_F(ModuleAdapters, OfAnMLPWhoseUpIsZeroChangeNoBit) {
  at::NoGradGuard no_grad;
  const at::Tensor without = model->forward({ids, left, {}});
  auto parallel = std::make_shared<Parallel>(16, 5);
  layer(model, 0).mlp->attach("beside", parallel);
  EXPECT_TRUE(at::equal(model->forward({ids, left, {}}), without));
  parallel->up.normal_();
  EXPECT_FALSE(at::equal(model->forward({ids, left, {}}), without));
  layer(model, 0).mlp->set_adapters_enabled(false);
  EXPECT_TRUE(at::equal(model->forward({ids, left, {}}), without));
  layer(model, 0).mlp->set_adapters_enabled(true);
  EXPECT_EQ(layer(model, 0).mlp->detach("beside"), parallel);
  EXPECT_TRUE(at::equal(model->forward({ids, left, {}}), without));
}

TEST_F(ModuleAdapters, StayInFp32WhateverTheModelIsBroughtTo) {
  layer(model, 0).mlp->attach("beside", std::make_shared<Parallel>(16, 5));
  layer(model, 0).self_attn->attach("soft", std::make_shared<Prefix>(2, 2, 4));
  model->to(at::kBFloat16);
  EXPECT_EQ(layer(model, 0).mlp->gate_proj->weight.scalar_type(), at::kBFloat16);
  EXPECT_EQ(layer(model, 0).mlp->adapter("beside")->parameters()[0].scalar_type(), at::kFloat);
  EXPECT_EQ(layer(model, 0).self_attn->adapter("soft")->parameters()[0].scalar_type(), at::kFloat);
  EXPECT_EQ(model->forward({ids, {}, {}}).scalar_type(), at::kBFloat16);
}

TEST_F(ModuleAdapters, SayWhyAGraphCannotCaptureThemUnlessTheyKnowThatItCan) {
  layer(model, 0).mlp->attach("beside", std::make_shared<Parallel>(16, 5));
  EXPECT_THAT(why_not_captured(model).value_or(""), HasSubstr("whole block"));
  layer(model, 0).mlp->activate("");
  EXPECT_THAT(why_not_captured(model).value_or(""), HasSubstr("not on a GPU"));
}

TEST_F(ModuleAdapters, AreRefusedUnderANameInUseAndOfAnotherSize) {
  AttentionImpl& attention = *layer(model, 0).self_attn;
  EXPECT_THROW(attention.attach("q_proj", std::make_shared<Prefix>(2, 2, 4)), c10::ValueError);
  attention.attach("soft", std::make_shared<Prefix>(2, 4, 4));
  EXPECT_THROW(attention.attach("soft", std::make_shared<Prefix>(2, 2, 4)), c10::ValueError);
  EXPECT_THROW(model->forward({ids, {}, {}}), c10::ValueError);
  EXPECT_THROW(attention.activate("hard"), c10::ValueError);
  EXPECT_THROW(attention.detach("hard"), c10::ValueError);
}

TEST_F(ModuleAdapters, AreNotSavedWithTheModelAndNotLeftOutUnasked) {
  testing::TemporaryFolder folder;
  model->to(at::kFloat);
  save_model(*model, folder / "before");
  const at::Tensor without = model->forward({ids, {}, {}});
  layer(model, 0).self_attn->attach("soft", std::make_shared<Prefix>(2, 2, 4));
  EXPECT_THROW(save_model(*model, folder / "active"), c10::ValueError);
  EXPECT_FALSE(std::filesystem::exists(folder / "active"));
  layer(model, 0).self_attn->activate("");
  save_model(*model, folder / "inactive");
  EXPECT_TRUE(at::equal(load_model(folder / "inactive")->forward({ids, {}, {}}), without));
}

} // namespace
} // namespace rora
