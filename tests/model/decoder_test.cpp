#include "support/gradcheck.h"
#include "support/test_data.h"
#include "support/tiny_llama.h"

#include <rora/model/decoder.h>
#include <rora/checkpoint/file.h>
#include <rora/checkpoint/safetensors.h>
#include <rora/model/pretrained.h>
#include <rora/model/prepacked_weights.h>
#include <rora/ops/cross_entropy.h>
#include <rora/ops/prepacked_weight.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <functional>

namespace rora {
namespace {

using testing::relative_error;
using testing::test_data;

at::Tensor optional_tensor(const SafetensorsFile& file, const std::string& name) {
  return file.contains(name) ? file.tensor(name) : at::Tensor();
}

at::Tensor forward(CausalLM model, const ModelInput& input) {
  at::NoGradGuard no_grad;
  return model->forward(input);
}

/// Logits at the real tokens, and the loss, are transformers'.
void expect_answers(const std::filesystem::path& folder, const std::filesystem::path& path) {
  CausalLM model = load_model(folder);
  const SafetensorsFile answers(path);
  const ModelInput input{
      answers.tensor("input_ids"), optional_tensor(answers, "attention_mask"),
      optional_tensor(answers, "position_ids")};
  at::Tensor found = forward(model, input);
  at::Tensor stored = answers.tensor("logits");
  if (input.attention_mask.defined()) {
    const at::Tensor real = input.attention_mask.unsqueeze(-1);
    EXPECT_LT(real.min().item<int64_t>(), 1) << "nothing is padded";
    found = found * real;
    stored = stored * real;
  }
  EXPECT_LT(relative_error(found, stored), 1e-5);
  const LossSum loss = model->loss(input, answers.tensor("labels"));
  const double expected = answers.tensor("loss").item<double>();
  EXPECT_LT(std::abs(loss.sum.item<double>() / static_cast<double>(loss.tokens) - expected) / expected, 5e-6);
}

class LlamaForm : public ::testing::TestWithParam<std::string> {};

TEST_P(LlamaForm, AnswersAsTransformers) {
  const auto folder = test_data("golden/forms") / GetParam();
  expect_answers(folder, folder / "answers.safetensors");
}

INSTANTIATE_TEST_SUITE_P(
    , LlamaForm,
    ::testing::Values(
        "untied", "rope_theta", "rope_linear", "rope_linear_oldest_spelling", "rope_dynamic_long", "rope_dynamic_short",
        "rope_llama3", "rope_llama3_old_spelling", "rope_llama3_length_outside", "biases", "one_key_value_head",
        "tied_with_only_the_head", "tied_with_both_keys"),
    [](const auto& info) { return info.param; });

TEST(LlamaForms, TheOriginalLengthIsTheWholeWhereTheConfigNamesNone) {
  const auto source = test_data("golden/forms/rope_llama3");
  testing::TemporaryFolder folder;
  std::filesystem::copy(source, folder.path());
  auto config = nlohmann::json::parse(read_file(source / "config.json"));
  config["max_position_embeddings"] = config["rope_parameters"]["original_max_position_embeddings"];
  config["rope_parameters"].erase("original_max_position_embeddings");
  write_file(folder / "config.json", config.dump());
  expect_answers(folder.path(), folder / "answers.safetensors");
}

class LlamaInputs : public ::testing::TestWithParam<std::string> {};

TEST_P(LlamaInputs, AreReadAsByTransformers) {
  expect_answers(test_data("golden/model"), test_data("golden/inputs") / (GetParam() + ".safetensors"));
}

INSTANTIATE_TEST_SUITE_P(
    , LlamaInputs, ::testing::Values("padded_on_the_right", "padded_on_the_left", "padded_amid", "positions_that_jump"),
    [](const auto& info) { return info.param; });

class Llama : public ::testing::Test {
 protected:
  CausalLM model = load_model(test_data("golden/model"));
  at::Tensor ids = SafetensorsFile(test_data("golden/inputs/padded_on_the_right.safetensors")).tensor("input_ids");
};

TEST_F(Llama, CountsPositionsOverTheRealTokens) {
  for (const std::string where : {"on_the_left", "on_the_right", "amid"}) {
    const SafetensorsFile answers(test_data("golden/inputs") / ("padded_" + where + ".safetensors"));
    const at::Tensor mask = answers.tensor("attention_mask");
    const at::Tensor given = forward(model, {ids, mask, answers.tensor("position_ids")});
    EXPECT_TRUE(at::equal(forward(model, {ids, mask, {}}) * mask.unsqueeze(-1), given * mask.unsqueeze(-1))) << where;
  }
}

TEST_F(Llama, PaddingSaysNothing) {
  const SafetensorsFile answers(test_data("golden/inputs/padded_on_the_left.safetensors"));
  const at::Tensor mask = answers.tensor("attention_mask");
  const at::Tensor other_padding = ids.where(mask == 1, (ids + 7) % model->options.vocab_size());
  const at::Tensor real = mask.unsqueeze(-1);
  EXPECT_TRUE(at::equal(forward(model, {ids, mask, {}}) * real, forward(model, {other_padding, mask, {}}) * real));
}

TEST_F(Llama, PackedSequencesDoNotSeeEachOther) {
  const std::vector<int64_t> lengths{5, 1, 8};
  const at::Tensor row = ids.slice(0, 0, 1);
  at::Tensor sequence = at::zeros_like(row);
  at::Tensor labels = row.clone();
  std::vector<at::Tensor> apart;
  at::Tensor loss_apart = at::zeros({});
  int64_t tokens_apart = 0;
  int64_t start = 0;
  for (size_t i = 0; i < lengths.size(); ++i) {
    const int64_t end = start + lengths[i];
    sequence.slice(1, start, end).fill_(static_cast<int64_t>(i) + 1);
    labels.select(1, start).fill_(-100);
    const ModelInput one{row.slice(1, start, end), {}, {}};
    apart.push_back(forward(model, one));
    const LossSum loss = model->loss(one, one.input_ids);
    loss_apart += loss.sum;
    tokens_apart += loss.tokens;
    start = end;
  }
  const ModelInput packed{row, sequence, {}};
  EXPECT_LT(relative_error(forward(model, packed), at::cat(apart, 1)), 2e-6);
  const LossSum loss = model->loss(packed, labels);
  EXPECT_EQ(loss.tokens, tokens_apart);
  EXPECT_NEAR(loss.sum.item<double>(), loss_apart.item<double>(), 1e-5 * loss_apart.item<double>());
  EXPECT_GT(relative_error(forward(model, {row, {}, {}}), at::cat(apart, 1)), 1e-3) << "the test could not fail";
}

/// The gradient of the inputs' embeddings.
at::Tensor input_gradient(CausalLM model, ModelInput input, const std::function<at::Tensor(const ModelInput&)>& loss) {
  input.inputs_embeds = model->embed(input.input_ids).detach().set_requires_grad(true);
  loss(input).backward();
  return input.inputs_embeds.grad();
}

TEST_F(Llama, LossOfFewLabelsIsThatOfAllLogits) {
  const SafetensorsFile answers(test_data("golden/inputs/padded_amid.safetensors"));
  const ModelInput input{ids, answers.tensor("attention_mask"), {}};
  at::Tensor labels = at::full_like(ids, -100);
  labels.slice(1, 5, 7).copy_(ids.slice(1, 5, 7));
  labels.select(1, 0).fill_(3); // predicted by nothing
  const auto of_all_logits = [&](const ModelInput& each) {
    const at::Tensor logits = model->forward(each).slice(1, 0, -1).flatten(0, 1);
    return at::cross_entropy_loss(logits, labels.slice(1, 1).flatten(), {}, at::Reduction::Sum);
  };
  const auto of_states = [&](const ModelInput& each) { return model->loss(each, labels).sum; };
  const auto layers = testing::decoder_of(model)->layers;
  auto* last = layers->ptr<DecoderLayerImpl>(layers->size() - 1).get();
  Attention attention = last->self_attn;
  MLP mlp = last->mlp;
  for (const char* lacks : {"nothing", "attention", "mlp"}) { // as a pruned layer does
    last->self_attn = std::string(lacks) == "attention" ? Attention(nullptr) : attention;
    last->mlp = std::string(lacks) == "mlp" ? MLP(nullptr) : mlp;
    EXPECT_NEAR(of_states(input).item<double>() / of_all_logits(input).item<double>(), 1.0, 1e-6) << lacks;
    const at::Tensor expected = input_gradient(model, input, of_all_logits);
    EXPECT_LT(relative_error(input_gradient(model, input, of_states), expected), 1e-5) << lacks;
  }
}

// As a GPU does where nearly all positions are labelled.
TEST_F(Llama, LossOfAllPositionsIsThatOfTheLabelledOnes) {
  const ModelInput input{ids, {}, {}};
  const at::Tensor labels = ids.clone();
  labels.select(1, 3).fill_(kIgnoreIndex);
  const PreparedLoss of_labelled = model->prepare_loss(input, labels);
  ASSERT_TRUE(of_labelled.input.chosen.defined());
  PreparedLoss of_all = of_labelled;
  of_all.input.chosen = at::Tensor();
  of_all.targets = at::constant_pad_nd(labels.slice(1, 1), {0, 1}, kIgnoreIndex).flatten();
  const double expected = model->compute_loss(of_labelled).item<double>();
  EXPECT_NEAR(model->compute_loss(of_all).item<double>() / expected, 1.0, 1e-6);
}

TEST_F(Llama, LossWithoutLabelsIsZero) {
  const LossSum loss = model->loss({ids, {}, {}}, at::full_like(ids, -100));
  EXPECT_EQ(loss.tokens, 0);
  EXPECT_EQ(loss.sum.item<double>(), 0.0);
}

TEST_F(Llama, PrepackedWeightsGiveTheSameBits) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    model->to(dtype);
    if (!ops::can_prepack_weights(dtype)) {
      EXPECT_THROW(prepack_weights(model), c10::ValueError);
      continue;
    }
    const ModelInput input{ids, {}, {}};
    const auto loss = [&](const ModelInput& each) { return model->loss(each, ids).sum; };
    const at::Tensor before = input_gradient(model, input, loss);
    EXPECT_GT(prepack_weights(model), 0);
    EXPECT_GT(testing::decoder_of(model)->layers->ptr<DecoderLayerImpl>(0)->mlp->up_proj->base().prepacked_bytes(), 0);
    EXPECT_TRUE(at::equal(input_gradient(model, input, loss), before)) << dtype;
  }
}

TEST_F(Llama, PrepackedWeightsAreNotTrained) {
  testing::decoder_of(model)->layers->ptr<DecoderLayerImpl>(1)->mlp->up_proj->weight.set_requires_grad(true);
  EXPECT_THROW(prepack_weights(model), c10::ValueError);
  EXPECT_EQ(testing::decoder_of(model)->layers->ptr<DecoderLayerImpl>(0)->mlp->up_proj->base().prepacked_bytes(), 0);
}

} // namespace
} // namespace rora
