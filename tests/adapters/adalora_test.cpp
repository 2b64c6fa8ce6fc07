#include "gated_support.h"
#include "kind_support.h"

#include <rora/adapters/adalora.h>
#include <rora/checkpoint/safetensors.h>
#include <rora/core/projection.h>
#include <rora/model/pretrained.h>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace rora {
namespace {

using nlohmann::json;
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

AdaLoraOptions options() {
  return AdaLoraOptions().init_r(4).target_r(2).alpha(6.0);
}

AdapterOptions adapters(const AdaLoraOptions& options) {
  return AdapterOptions()
      .kind(adalora(options))
      .target_modules(std::vector<std::string>{"q_proj", "k_proj", "v_proj", "down_proj"});
}

/// A model whose adapters have numbers in E, but for some: of the first module the first and the third are 0, of the
/// second all.
DecoderForCausalLM with_ranks_taken() {
  auto model = tiny_llama();
  attach_adapters(*model, adapters(options()));
  at::NoGradGuard no_grad;
  at::manual_seed(9);
  int64_t module = 0;
  for (auto& [name, tensor] : named_adapter_parameters(*model)) {
    if (name.ends_with("lora_E")) {
      tensor.normal_();
      if (module == 0) {
        tensor[0].zero_();
        tensor[2].zero_();
      } else if (module == 1) {
        tensor.zero_();
      }
      ++module;
    }
  }
  return model;
}

TEST(AdaLora, BeginsAsTheBaseToTheBitAndAsPeftDoes) {
  auto model = tiny_llama();
  const at::Tensor frozen = logits_of(model);
  EXPECT_EQ(attach_adapters(*model, adapters(options())).size(), 8u);
  EXPECT_TRUE(at::equal(logits_of(model), frozen));

  at::manual_seed(7);
  Projection wide(48, 64);
  wide->reset_parameters();
  const AdaLoraAdapter adapter(*wide, AdaLoraOptions().init_r(500));
  for (const at::Tensor& each : {adapter.lora_A, adapter.lora_B}) {
    EXPECT_NEAR(each.mean().item<double>(), 0.0, 5e-4);
    EXPECT_NEAR(each.std().item<double>(), 0.02, 4e-4);
  }
  EXPECT_FALSE(adapter.changes_output());
}

TEST(AdaLora, HasItsFormulaAndItsGradients) {
  testing::expect_the_formula_of_gates<AdaLoraAdapter>(options(), 6.0 / (4.0 + 1e-5));
}

TEST(AdaLora, MergesIntoOneWeightAndOutAgain) {
  auto model = with_ranks_taken();
  const at::Tensor adapted = logits_of(model);
  merge_adapters(*model);
  EXPECT_LT(relative_error(logits_of(model), adapted), 1e-5);
  unmerge_adapters(*model);
  EXPECT_TRUE(at::equal(logits_of(model), adapted));
}

TEST(AdaLora, RanksThatWereTakenAreLeftOutOfItsFolderAndTheRestIsTheSame) {
  const json config = expect_the_same_once_loaded(with_ranks_taken(), 1e-6); // by products of fewer ranks
  EXPECT_EQ(config.at("peft_type"), "ADALORA");
  EXPECT_EQ(config.at("init_r"), 4);
  EXPECT_EQ(config.at("target_r"), 2);
  EXPECT_EQ(config.at("lora_alpha"), 6);
  const json& pattern = config.at("rank_pattern");
  EXPECT_EQ(pattern.size(), 8u);
  EXPECT_EQ(pattern.at("model.layers.0.self_attn.q_proj.lora_E"), json({false, true, false, true}));
  EXPECT_EQ(pattern.at("model.layers.0.self_attn.k_proj.lora_E"), json({true, true, true, true}))
      << "where all are 0 none tells which were taken";
  EXPECT_EQ(pattern.at("model.layers.1.mlp.down_proj.lora_E"), json({true, true, true, true}));

  const TemporaryFolder folder;
  save_adapter(*with_ranks_taken(), folder.path());
  const SafetensorsFile file(folder / "adapter_model.safetensors");
  const std::string module = "base_model.model.model.layers.0.self_attn.q_proj.";
  EXPECT_EQ(file.shape(module + "lora_A"), (std::vector<int64_t>{2, 16}));
  EXPECT_EQ(file.shape(module + "lora_E"), (std::vector<int64_t>{2, 1}));
  EXPECT_EQ(file.shape(module + "lora_B"), (std::vector<int64_t>{16, 2}));
}

TEST(AdaLora, AFreshOneIsSavedWhole) {
  auto model = tiny_llama();
  attach_adapters(*model, adapters(options()));
  const json config = expect_the_same_once_loaded(model);
  EXPECT_TRUE(config.at("rank_pattern").is_null());
  EXPECT_EQ(config.at("total_step"), 1) << "PEFT reads no folder without one";
}

TEST(AdaLora, IsReadFromPeftsFolderOfTheSameLogits) {
  const auto folder = test_data("adalora/adapter");
  CausalLM model = load_model(test_data("golden/model"), at::kFloat);
  load_adapter(*model, folder);
  const SafetensorsFile answers(folder / "answers.safetensors");
  at::NoGradGuard no_grad;
  const at::Tensor logits = model->forward({answers.tensor("input_ids"), {}, {}});
  EXPECT_LT(relative_error(logits, answers.tensor("logits")), 1e-5);

  // One of its modules has no rank left, as PEFT may leave it.
  const TemporaryFolder again;
  save_adapter(*model, again.path());
  const auto read = json::parse(read_file(folder / "adapter_config.json"));
  const auto written = json::parse(read_file(again / "adapter_config.json"));
  for (const char* field :
       {"rank_pattern", "init_r", "target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight",
        "total_step", "lora_alpha", "target_modules"}) {
    EXPECT_EQ(written.at(field), read.at(field)) << field;
  }
  const SafetensorsFile before(folder / "adapter_model.safetensors");
  const SafetensorsFile after(again / "adapter_model.safetensors");
  ASSERT_EQ(after.names().size(), before.names().size());
  for (const std::string& name : before.names()) {
    EXPECT_TRUE(at::equal(after.tensor(name), before.tensor(name))) << name;
  }
}

TEST(AdaLora, IsClonedWithTheRanksThatItHas) {
  const TemporaryFolder folder;
  save_adapter(*with_ranks_taken(), folder.path());
  auto model = tiny_llama();
  load_adapter(*model, folder.path());
  ProjectionImpl& query = *model->model->layers->at<DecoderLayerImpl>(0).self_attn->q_proj;
  const auto copy = std::dynamic_pointer_cast<ProjectionImpl>(query.clone());
  const at::Tensor x = at::randn({3, 16});
  EXPECT_TRUE(at::equal(copy->forward(x), query.forward(x)));
  const auto adapter = std::dynamic_pointer_cast<AdaLoraAdapter>(copy->adapter(kDefaultAdapter));
  ASSERT_NE(adapter, nullptr);
  EXPECT_EQ(adapter->kept(), (std::vector<bool>{false, true, false, true}));
  at::NoGradGuard no_grad;
  adapter->gate.zero_();
  EXPECT_FALSE(at::equal(copy->forward(x), query.forward(x)));
}

TEST(AdaLora, DropsInTrainingAloneByTheSeed) {
  auto model = tiny_llama();
  attach_adapters(*model, adapters(options().dropout(0.5)));
  for (at::Tensor& each : adapter_parameters(*model)) {
    at::NoGradGuard no_grad;
    each.normal_();
  }
  const auto drawn = [&](uint64_t seed) {
    at::manual_seed(seed);
    return logits_of(model);
  };
  EXPECT_TRUE(at::equal(drawn(1), drawn(2)));
  model->train();
  EXPECT_TRUE(at::equal(drawn(1), drawn(1)));
  EXPECT_FALSE(at::equal(drawn(1), drawn(2)));
}

TEST(AdaLora, ItsFolderIsReadAsStrictlyAsAny) {
  const TemporaryFolder folder;
  save_adapter(*with_ranks_taken(), folder.path());
  const auto failure = [&](const char* field, const json& value) { return failure_with(folder.path(), field, value); };
  EXPECT_EQ(failure("lora_dropout", 0.5), "nothing was thrown");
  EXPECT_EQ(failure("target_r", 9), "nothing was thrown") << "PEFT's default, of which only a training asks";
  EXPECT_THAT(failure("init_r", 0), HasSubstr("init_r must be at least 1, not 0"));
  EXPECT_THAT(failure("init_r", 5), HasSubstr("must be a list of init_r, 5, true and false"));
  EXPECT_THAT(failure("lora_alpha", 1e300), HasSubstr("lora_alpha must be finite in float32"));
  EXPECT_THAT(failure("lora_alpha", -4), HasSubstr("lora_alpha must be above 0, not -4"));
  EXPECT_THAT(failure("beta1", 1.0), HasSubstr("beta1 must be in (0, 1), not 1.0"));
  EXPECT_THAT(failure("deltaT", 0), HasSubstr("deltaT must be at least 1"));
  EXPECT_THAT(failure("orth_reg_weight", -1), HasSubstr("orth_reg_weight must be at least 0, not -1"));
  EXPECT_THAT(failure("bias", "all"), HasSubstr("bias 'all' is not supported"));
  EXPECT_THAT(failure("use_dora", true), HasSubstr("use_dora is not supported"));
  EXPECT_THAT(failure("use_rslora", true), HasSubstr("use_rslora is not supported")) << "PEFT would not look at it";
  EXPECT_THAT(failure("rank_pattern", nullptr), HasSubstr("must have shape"));
  EXPECT_THAT(
      failure("rank_pattern", json({{"model.layers.0.self_attn.q_proj", 2}})),
      HasSubstr("must be a module's name with .lora_E behind it"));
  const std::string key = "model.layers.0.self_attn.q_proj.lora_E";
  EXPECT_THAT(
      failure("rank_pattern", json({{key, {1, 0, 1, 0}}})),
      HasSubstr("rank_pattern." + key + " must be a list of true and false"));
  EXPECT_THAT(failure("rank_pattern", json({{key, {true, true, true, false}}})), HasSubstr("must have shape"));
  json pattern = json::parse(read_file(folder / "adapter_config.json")).at("rank_pattern");
  pattern["model.layers.7.nothing.lora_E"] = {true, true, true, true};
  EXPECT_THAT(
      failure("rank_pattern", pattern),
      HasSubstr("rank_pattern.model.layers.7.nothing.lora_E is of a module that has no adapter"));
}

TEST(AdaLora, RefusesOptionsOutOfRange) {
  EXPECT_THROW(adalora(AdaLoraOptions().init_r(0)), c10::ValueError);
  EXPECT_THROW(adalora(AdaLoraOptions().target_r(-1)), c10::ValueError);
  EXPECT_THROW(adalora(AdaLoraOptions().dropout(1.0)), c10::ValueError);
  EXPECT_THROW(adalora(AdaLoraOptions().beta2(0.0)), c10::ValueError);
  EXPECT_THROW(adalora(AdaLoraOptions().delta_t(0)), c10::ValueError);
  EXPECT_THROW(adalora(AdaLoraOptions().orth_reg_weight(-0.5)), c10::ValueError);
  EXPECT_THAT(
      [] { (void)AdaLoraOptions().init_r(4).target_r(8).for_run(100); },
      ThrowsMessage<c10::ValueError>(HasSubstr("target_r, 8, must be at most init_r, 4")));
  EXPECT_THAT(
      [] { (void)AdaLoraOptions().tinit(40).tfinal(60).for_run(100); },
      ThrowsMessage<c10::ValueError>(HasSubstr("tinit 40 and tfinal 60 leave none of 100 steps")));
}

TEST(AdaLora, ItsBudgetIsACubicBetweenItsTwoEnds) {
  const AdaLoraOptions run = AdaLoraOptions().init_r(12).target_r(8).tinit(500).tfinal(1500).for_run(3000);
  EXPECT_EQ(run.budget(1, 10), 120);
  EXPECT_EQ(run.budget(500, 10), 120);
  EXPECT_EQ(run.budget(1000, 10), 85) << "80 + 40/8";
  EXPECT_EQ(run.budget(750, 10), 96) << "80 + 40·27/64, rounded down";
  EXPECT_EQ(run.budget(1500, 10), 80);
  EXPECT_EQ(run.budget(3000, 10), 80);
  const AdaLoraOptions shares = AdaLoraOptions().for_run(3000);
  EXPECT_EQ(shares.tinit(), 500);
  EXPECT_EQ(shares.tfinal(), 1500);
}

TEST(AdaLora, OfOtherOptionsIsNotSavedBesideTheOthers) {
  const TemporaryFolder folder;
  auto model = tiny_llama();
  attach_adapters(*model, adapters(options()));
  ProjectionImpl& down = *model->model->layers->at<DecoderLayerImpl>(1).mlp->down_proj;
  down.detach(kDefaultAdapter);
  down.attach(kDefaultAdapter, std::make_shared<AdaLoraAdapter>(down, options().alpha(7.0)));
  EXPECT_THAT(
      [&] { save_adapter(*model, folder / "adapter"); },
      ThrowsMessage<c10::ValueError>(HasSubstr("its adapter has other options than the others of its name")));
}

} // namespace
} // namespace rora
