#include "support/gradcheck.h"
#include "support/test_data.h"
#include "support/tiny_llama.h"

#include <rora/adapters/attach.h>
#include <rora/adapters/peft_folder.h>
#include <rora/checkpoint/file.h>
#include <rora/checkpoint/safetensors.h>
#include <rora/error.h>
#include <rora/model/pretrained.h>
#include <rora/model/trained_rows.h>
#include <rora/training/adamw.h>
#include <rora/training/parameter_table.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <ostream>

namespace rora {
namespace {

using rora::testing::decoder_of;
using rora::testing::relative_error;
using rora::testing::TemporaryFolder;
using rora::testing::tiny_llama;
using rora::testing::tiny_llama_options;
using ::testing::HasSubstr;

constexpr double kRounding = 1e-6;

DecoderForCausalLM llama(bool tied) {
  return tiny_llama(tiny_llama_options().tie_word_embeddings(tied));
}

AdapterOptions beside_q() {
  return AdapterOptions()
      .low_rank(LowRankOptions().rank(2).alpha(4))
      .target_modules(std::vector<std::string>{"q_proj"});
}

/// A way to train rows.
struct Form {
  std::string name;
  bool tied = false;
  AdapterOptions options;
};

std::ostream& operator<<(std::ostream& stream, const Form& form) {
  return stream << form.name;
}

std::vector<Form> forms() {
  return {
      {"EmbeddingAndHead", false, beside_q().modules_to_save({"embed_tokens", "lm_head"})},
      {"EmbeddingAlone", false, beside_q().modules_to_save({"embed_tokens"})},
      {"HeadAlone", false, beside_q().modules_to_save({"lm_head"})},
      {"UntiedEmbeddingAndHead", true, beside_q().modules_to_save({"embed_tokens", "lm_head"})},
      {"UntiedEmbedding", true, beside_q().modules_to_save({"model.embed_tokens"})},
      {"UntiedHead", true, beside_q().modules_to_save({"lm_head"})},
      {"TiedEmbeddingAndHead", true, beside_q().modules_to_save({"lm_head"}).ensure_weight_tying(true)},
      {"Tokens", false, beside_q().trainable_token_indices({{"embed_tokens", {7, 3}}})},
      {"TiedTokens", true, beside_q().trainable_token_indices({{"embed_tokens", {7, 3}}})},
      {"TokensOfEach", false, beside_q().trainable_token_indices({{"embed_tokens", {7}}, {"lm_head", {3, 9}}})},
      {"UntiedTokensOfEach", true, beside_q().trainable_token_indices({{"embed_tokens", {7}}, {"lm_head", {3, 9}}})},
      {"TokensAndHead", false,
       beside_q().modules_to_save({"lm_head"}).trainable_token_indices({{"embed_tokens", {7, 3}}})},
  };
}

at::Tensor ids() {
  return (at::arange(20, at::kLong) * 7 % 32).view({2, 10});
}

at::Tensor logits(CausalLM model) {
  at::NoGradGuard no_grad;
  return model->forward({ids(), {}, {}});
}

void randomise(torch::nn::Module& model, double size = 0.1) {
  at::NoGradGuard no_grad;
  for (const auto& [name, parameter] : named_adapter_parameters(model)) {
    at::Tensor(parameter).add_(at::randn_like(parameter), size);
  }
}

at::Tensor loss(CausalLM model) {
  const LossSum loss = model->loss({ids(), {}, {}}, ids());
  return loss.sum / static_cast<double>(loss.tokens);
}

std::string refusal(bool tied, const AdapterOptions& options) {
  auto model = llama(tied);
  const auto before = model->named_parameters().keys();
  try {
    attach_adapters(*model, options);
  } catch (const c10::ValueError& error) {
    EXPECT_EQ(model->named_parameters().keys(), before) << "something was attached";
    return error.what_without_backtrace();
  }
  return "nothing was thrown";
}

class TrainedRowsTest : public ::testing::TestWithParam<Form> {
 protected:
  DecoderForCausalLM model = llama(GetParam().tied);
};

TEST_P(TrainedRowsTest, BeginAsTheFrozenOnes) {
  const at::Tensor before = logits(model);
  attach_adapters(*model, GetParam().options);
  EXPECT_LE(relative_error(logits(model), before), kRounding);
}

TEST_P(TrainedRowsTest, LeaveTheModelAsItWasWhenDetachedOrSwitchedOff) {
  const at::Tensor before = logits(model);
  attach_adapters(*model, GetParam().options);
  randomise(*model);
  EXPECT_GT(relative_error(logits(model), before), 0.01);
  {
    const DisableAdapters disabled(*model);
    EXPECT_LE(relative_error(logits(model), before), kRounding);
  }
  detach_adapters(*model);
  EXPECT_LE(relative_error(logits(model), before), kRounding);
}

TEST_P(TrainedRowsTest, GradientsAreThoseOfDifferences) {
  model->to(at::kDouble);
  attach_adapters(*model, GetParam().options);
  randomise(*model);
  loss(model).backward();
  constexpr double kStep = 1e-6;
  at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : named_adapter_parameters(*model)) {
    at::Tensor parameter = tensor;
    ASSERT_EQ(parameter.scalar_type(), at::kDouble) << name;
    const at::Tensor direction = at::randn_like(parameter);
    parameter.add_(direction, kStep);
    const double above = loss(model).item<double>();
    parameter.add_(direction, -2 * kStep);
    const double below = loss(model).item<double>();
    parameter.add_(direction, kStep);
    const double found = (parameter.grad() * direction).sum().item<double>();
    EXPECT_NEAR(found, (above - below) / (2 * kStep), 1e-7 * std::max(1.0, std::abs(found))) << name;
  }
}

TEST_P(TrainedRowsTest, MergedDoTheSameAndUnmergedAreTheBaseBitForBit) {
  std::map<std::string, at::Tensor> before;
  attach_adapters(*model, GetParam().options);
  for (const auto& item : model->named_parameters()) {
    before[item.key()] = item.value().detach().clone();
  }
  randomise(*model);
  const at::Tensor expected = logits(model);
  merge_adapters(*model);
  EXPECT_LE(relative_error(logits(model), expected), kRounding);

  const TemporaryFolder folder;
  save_model(*model, folder / "merged");
  EXPECT_LE(relative_error(logits(load_model(folder / "merged")), expected), kRounding);

  unmerge_adapters(*model);
  EXPECT_LE(relative_error(logits(model), expected), kRounding);
  for (const auto& item : model->named_parameters()) {
    if (!item.value().requires_grad()) {
      EXPECT_TRUE(at::equal(item.value(), before.at(item.key()))) << item.key();
    }
  }
}

TEST_P(TrainedRowsTest, AreSavedLoadedAndSavedAgainInTheSameBytes) {
  attach_adapters(*model, GetParam().options);
  randomise(*model);
  const TemporaryFolder folder;
  save_adapter(*model, folder / "first");
  auto other = llama(GetParam().tied);
  load_adapter(*other, folder / "first");
  EXPECT_TRUE(at::equal(logits(other), logits(model)));
  save_adapter(*other, folder / "second");
  for (const char* file : {"adapter_config.json", "adapter_model.safetensors"}) {
    EXPECT_EQ(read_file(folder / "first" / file), read_file(folder / "second" / file)) << file;
  }
}

TEST_P(TrainedRowsTest, LearnABatchAndChangeNoOtherRow) {
  attach_adapters(*model, GetParam().options);
  std::map<std::string, at::Tensor> frozen;
  for (const auto& item : model->named_parameters()) {
    if (!item.value().requires_grad()) {
      frozen[item.key()] = item.value().clone();
    }
  }
  ParameterTable parameters(*model);
  AdamW optimizer(parameters);
  const double first = loss(model).item<double>();
  for (int step = 0; step < 40; ++step) {
    parameters.zero_grad();
    loss(model).backward();
    optimizer.step(1e-2);
  }
  EXPECT_LT(loss(model).item<double>(), 0.9 * first);
  for (const auto& [name, weight] : frozen) {
    EXPECT_TRUE(at::equal(weight, model->named_parameters()[name])) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(, TrainedRowsTest, ::testing::ValuesIn(forms()), [](const auto& info) {
  return info.param.name;
});

TEST(TrainedRows, OfTokensChangeThoseTokensAlone) {
  for (const bool tied : {false, true}) {
    auto model = llama(tied);
    const at::Tensor every = at::arange(32, at::kLong).unsqueeze(0);
    at::NoGradGuard no_grad;
    const at::Tensor embedded = model->embed(every).clone();
    const at::Tensor hidden = at::randn({1, 3, 16});
    const at::Tensor before = model->logits(hidden).clone();
    attach_adapters(*model, beside_q().trainable_token_indices({{"embed_tokens", {7, 3}}}));
    randomise(*model);
    const auto changed = [](const at::Tensor& a, const at::Tensor& b) {
      const at::Tensor places = (a != b).flatten(0, 1).any(0).nonzero().flatten();
      return std::vector<int64_t>(places.const_data_ptr<int64_t>(), places.const_data_ptr<int64_t>() + places.numel());
    };
    EXPECT_THAT(changed(model->embed(every).transpose(1, 2), embedded.transpose(1, 2)), ::testing::ElementsAre(3, 7));
    const auto of_head = tied ? std::vector<int64_t>{3, 7} : std::vector<int64_t>{};
    EXPECT_EQ(changed(model->logits(hidden), before), of_head);
  }
}

TEST(TrainedRows, AreFloat32BesideABfloat16ModelWhoseStatesStayBfloat16) {
  auto model = llama(/*tied=*/true);
  model->to(at::kBFloat16);
  attach_adapters(*model, beside_q().modules_to_save({"embed_tokens", "lm_head"}));
  EXPECT_EQ(decoder_of(model)->embed_tokens->adapter(kDefaultAdapter)->parameters()[0].scalar_type(), at::kFloat);
  EXPECT_EQ(model->embed(ids()).scalar_type(), at::kBFloat16);
  EXPECT_EQ(model->forward({ids(), {}, {}}).scalar_type(), at::kBFloat16);
  loss(model).backward();
  EXPECT_EQ(model->lm_head->adapter(kDefaultAdapter)->parameters()[0].grad().scalar_type(), at::kFloat);
}

TEST(TrainedRows, AreConvertedAndClonedWithTheirTokens) {
  auto model = llama(/*tied=*/true);
  attach_adapters(*model, beside_q().trainable_token_indices({{"embed_tokens", {7, 3}}}));
  randomise(*model);
  const auto copy = std::dynamic_pointer_cast<EmbeddingImpl>(decoder_of(model)->embed_tokens->clone());
  ASSERT_NE(copy, nullptr);
  EXPECT_TRUE(at::equal(copy->forward(ids()), model->embed(ids())));
  copy->to(at::kDouble);
  EXPECT_LE(relative_error(copy->forward(ids()), model->embed(ids())), kRounding);
  copy->to(at::kBFloat16);
  EXPECT_LE(relative_error(copy->forward(ids()), model->embed(ids())), 0x1p-8);
}

TEST(TrainedRows, TakeTheTargetModulesPlace) {
  auto model = llama(/*tied=*/false);
  attach_adapters(
      *model, beside_q().target_modules(std::vector<std::string>{"q_proj", "lm_head"}).modules_to_save({"lm_head"}));
  EXPECT_NE(dynamic_cast<TrainedRows*>(model->lm_head->active_adapter()), nullptr);
}

TEST(TrainedRows, OfAHeadThatAnotherAdapterHasUntiedAreNotTheEmbeddingsToo) {
  auto model = llama(/*tied=*/true);
  attach_adapters(*model, beside_q().modules_to_save({"lm_head"}), "first");
  try {
    attach_adapters(*model, beside_q().trainable_token_indices({{"embed_tokens", {1}}}), "second");
    FAIL() << "the head would keep the frozen row";
  } catch (const c10::ValueError& error) {
    EXPECT_THAT(error.what_without_backtrace(), HasSubstr("no longer tied"));
  }
}

TEST(TrainedRows, OfATiedHeadKeepTheHeadTied) {
  auto model = llama(/*tied=*/true);
  attach_adapters(*model, beside_q().trainable_token_indices({{"embed_tokens", {1}}}), "first");
  try {
    attach_adapters(*model, beside_q().modules_to_save({"lm_head"}), "second");
    FAIL() << "the head of the first adapter would be another";
  } catch (const c10::ValueError& error) {
    EXPECT_THAT(error.what_without_backtrace(), HasSubstr("detach 'first' before"));
  }
}

TEST(TrainedRows, GoneTheHeadIsTiedAgain) {
  auto model = llama(/*tied=*/true);
  const auto names = model->named_parameters().keys();
  attach_adapters(*model, beside_q().modules_to_save({"lm_head"}));
  EXPECT_FALSE(model->options.tie_word_embeddings());
  model->to(at::kBFloat16);
  detach_adapters(*model);
  EXPECT_TRUE(model->options.tie_word_embeddings());
  EXPECT_EQ(model->named_parameters().keys(), names);
  attach_adapters(*model, beside_q().trainable_token_indices({{"embed_tokens", {1}}}));
}

TEST(TrainedRows, MayBeOfTargetModules) {
  const auto targets = [](std::vector<std::string> names) { return beside_q().target_modules(std::move(names)); };
  for (const bool tied : {false, true}) {
    for (const AdapterOptions& options :
         {targets({"q_proj", "embed_tokens"}).modules_to_save({"embed_tokens"}),
          targets({"q_proj", "lm_head"}).modules_to_save({"lm_head"}),
          beside_q().trainable_token_indices({{"lm_head", {5}}}).ensure_weight_tying(true)}) {
      EXPECT_EQ(refusal(tied, options), "nothing was thrown");
    }
  }
}

TEST(TrainedRows, OfAModelWithinAnotherModuleAreFound) {
  const auto holder = std::make_shared<torch::nn::Module>();
  auto model = holder->register_module("inner", llama(/*tied=*/true));
  attach_adapters(*holder, beside_q().modules_to_save({"lm_head"}));
  EXPECT_NE(dynamic_cast<TrainedRows*>(model->lm_head->active_adapter()), nullptr);
}

TEST(TrainedRows, AreRefusedWhereTheyMakeNoSense) {
  const auto tokens = [](std::vector<int64_t> of_embedding) {
    return beside_q().trainable_token_indices({{"embed_tokens", std::move(of_embedding)}});
  };
  EXPECT_THAT(refusal(false, tokens({})), HasSubstr("names no token"));
  EXPECT_THAT(refusal(false, tokens({1, 32})), HasSubstr("there is no token 32: the vocabulary has 32"));
  EXPECT_THAT(refusal(true, tokens({-1})), HasSubstr("there is no token -1"));
  EXPECT_THAT(refusal(true, tokens({5, 4, 5})), HasSubstr("token 5 is named twice"));
  EXPECT_THAT(refusal(false, beside_q().modules_to_save({"norm"})), HasSubstr("'norm' is not a module whose rows"));
  EXPECT_THAT(refusal(false, tokens({1}).modules_to_save({"embed_tokens"})), HasSubstr("is named twice"));
  EXPECT_THAT(refusal(true, tokens({1}).modules_to_save({"lm_head"})), HasSubstr("all rows of one and some"));
  EXPECT_THAT(
      refusal(
          true,
          beside_q().trainable_token_indices({{"embed_tokens", {1}}, {"lm_head", {2}}}).ensure_weight_tying(true)),
      HasSubstr("other tokens for the head"));
  EXPECT_THAT(
      refusal(false, beside_q().target_modules(std::vector<std::string>{"embed_tokens"})), HasSubstr("an embedding"));
  EXPECT_THAT(
      refusal(
          false,
          beside_q().target_modules(std::vector<std::string>{"lm_head"}).trainable_token_indices({{"lm_head", {2}}})),
      HasSubstr("it has one adapter"));
}

TEST(TrainedRows, OfATiedHeadThatDifferFromTheEmbeddingsAreRefused) {
  auto model = llama(/*tied=*/true);
  attach_adapters(*model, beside_q().modules_to_save({"embed_tokens"}).ensure_weight_tying(true));
  const TemporaryFolder folder;
  save_adapter(*model, folder.path());
  NamedTensors tensors;
  const SafetensorsFile file(folder / "adapter_model.safetensors");
  for (const std::string& name : file.names()) {
    tensors.emplace_back(name, name.find("lm_head") == std::string::npos ? file.tensor(name) : file.tensor(name) + 1);
  }
  save_safetensors(folder / "adapter_model.safetensors", tensors);
  auto other = llama(/*tied=*/true);
  try {
    load_adapter(*other, folder.path());
    FAIL() << "one of the two tensors was left out";
  } catch (const FormatError& error) {
    EXPECT_THAT(error.what(), HasSubstr("base_model.model.lm_head.weight is not base_model.model.model.embed_tokens"));
  }
}

} // namespace
} // namespace rora
