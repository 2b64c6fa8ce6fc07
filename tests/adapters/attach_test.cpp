#include "support/gradcheck.h"
#include "support/tiny_llama.h"

#include <rora/adapters/attach.h>
#include <rora/core/low_rank_adapter.h>
#include <rora/core/rora_linear.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>

#include <c10/util/Exception.h>

namespace rora {
namespace {

using rora::testing::tiny_llama;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

AdapterOptions targeting(ModuleSelection selection) {
  return AdapterOptions().low_rank(LowRankOptions().rank(2)).target_modules(std::move(selection));
}

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const c10::ValueError& error) {
    return error.what_without_backtrace();
  }
  return "nothing was thrown";
}

LowRankAdapter& adapter_at(CausalLM model, const std::string& module) {
  for (const auto& item : model->named_modules()) {
    if (item.key() == module) {
      return dynamic_cast<LowRankAdapter&>(*item.value()->as<ProjectionImpl>()->adapter(kDefaultAdapter));
    }
  }
  C10_THROW_ERROR(IndexError, module);
}

TEST(AttachAdapters, TargetsAllProjectionsUnlessToldOtherwise) {
  auto model = tiny_llama();
  EXPECT_THAT(attach_adapters(*model, AdapterOptions()), SizeIs(14));
}

TEST(AttachAdapters, SaysThatAProjectionIsNoModelOfProjections) {
  RoRALinear layer(8, 8);
  EXPECT_THROW(attach_adapters(*layer, AdapterOptions()), c10::ValueError);
  EXPECT_THROW(merge_adapters(*layer), c10::ValueError);
  EXPECT_THROW(activate_adapters(*layer, kDefaultAdapter), c10::ValueError);
  EXPECT_FALSE(layer->merged());
}

TEST(AttachAdapters, MatchesWholeNamesAndSuffixesAfterADot) {
  auto model = tiny_llama();
  EXPECT_THAT(
      attach_adapters(*model, targeting(std::vector<std::string>{"q_proj", "layers.1.mlp.up_proj"})),
      ElementsAre("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "model.layers.1.mlp.up_proj"));
  auto other = tiny_llama();
  EXPECT_THAT(
      message_of([&] { attach_adapters(*other, targeting(std::vector<std::string>{"proj"})); }),
      HasSubstr("matches nothing"));
}

TEST(AttachAdapters, ARegularExpressionMustMatchTheWholeName) {
  auto model = tiny_llama();
  EXPECT_THAT(
      attach_adapters(*model, targeting(ModuleSelection::matching(R"(model\.layers\.0\..*\.(q|v)_proj)"))),
      ElementsAre("model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"));
  auto other = tiny_llama();
  EXPECT_THAT(
      message_of([&] { attach_adapters(*other, targeting(ModuleSelection::matching("q_proj"))); }),
      HasSubstr("matches nothing"));
  EXPECT_THAT(
      message_of([&] { attach_adapters(*other, targeting(ModuleSelection::matching("(q_proj"))); }),
      HasSubstr("not a regular expression"));
}

TEST(AttachAdapters, ARegularExpressionThatTakesTooManyStepsIsAnError) {
  auto model = tiny_llama();
  const std::string nested = "(?:[a-z_.0-9]+)+[!?]";
  EXPECT_THAT(
      message_of([&] { attach_adapters(*model, targeting(ModuleSelection::matching(nested))); }),
      HasSubstr("'(?:[a-z_.0-9]+)+[!?]' cannot be matched with 'model."));
  auto options = targeting(std::vector<std::string>{"q_proj"});
  options.rank_pattern({{nested, 8}});
  EXPECT_THAT(message_of([&] { attach_adapters(*model, options); }), HasSubstr("cannot be matched with"));
}

TEST(AttachAdapters, AllLinearLeavesTheHeadOut) {
  auto model = tiny_llama();
  EXPECT_FALSE(model->lm_head.is_empty());
  EXPECT_THAT(attach_adapters(*model, targeting(ModuleSelection::every_linear())), SizeIs(14));
  EXPECT_EQ(model->lm_head->active_adapter(), nullptr);
}

TEST(AttachAdapters, ExcludesModulesAndKeepsToLayers) {
  auto model = tiny_llama();
  const auto options =
      targeting(ModuleSelection::every_linear())
          .exclude_modules(std::vector<std::string>{"k_proj", "v_proj", "o_proj", "up_proj", "gate_proj"})
          .layers_to_transform({1});
  EXPECT_THAT(
      attach_adapters(*model, options), ElementsAre("model.layers.1.self_attn.q_proj", "model.layers.1.mlp.down_proj"));
}

TEST(AttachAdapters, AModuleNamedInWholeIsMeantInAnyLayer) {
  auto model = tiny_llama();
  const std::string whole = "model.layers.0.self_attn.q_proj";
  const auto options = targeting(std::vector<std::string>{"v_proj", whole}).layers_to_transform({1});
  EXPECT_THAT(attach_adapters(*model, options), ElementsAre(whole, "model.layers.1.self_attn.v_proj"));
}

TEST(AttachAdapters, SaysWhyNoModuleIsLeft) {
  auto model = tiny_llama();
  const ModuleSelection q_proj = std::vector<std::string>{"q_proj"};
  EXPECT_EQ(
      message_of([&] { attach_adapters(*model, targeting(q_proj).exclude_modules(q_proj)); }),
      "exclude_modules leaves none of the target modules");
  EXPECT_EQ(
      message_of([&] {
        attach_adapters(*model, targeting(q_proj).layers_to_transform({1, 2}));
      }),
      "layers_to_transform names layer 2, which has no target");
}

TEST(AttachAdapters, APatternsFirstKeyWinsAndTheScaleIsTheModulesOwn) {
  auto model = tiny_llama();
  auto options = targeting(std::vector<std::string>{"q_proj", "down_proj"});
  options.low_rank(LowRankOptions().rank(4).alpha(8).scaling(Scaling::kStandard));
  options.rank_pattern({{"layers.0.self_attn.q_proj", 2}, {"q_proj", 8}});
  options.alpha_pattern({{"mlp.down_proj", 3.0}});
  attach_adapters(*model, options);
  EXPECT_EQ(adapter_at(model, "model.layers.0.self_attn.q_proj").options.rank(), 2);
  EXPECT_EQ(adapter_at(model, "model.layers.1.self_attn.q_proj").options.rank(), 8);
  EXPECT_DOUBLE_EQ(adapter_at(model, "model.layers.0.self_attn.q_proj").scale(), 4.0);
  EXPECT_DOUBLE_EQ(adapter_at(model, "model.layers.1.mlp.down_proj").scale(), 0.75);
}

TEST(AttachAdapters, ATargetThatMatchesNothingListsWhatExistsAndAttachesNothing) {
  auto model = tiny_llama();
  const std::string message = message_of([&] {
    attach_adapters(*model, targeting(std::vector<std::string>{"q_proj", "qq_proj"}));
  });
  EXPECT_THAT(message, HasSubstr("'qq_proj' matches nothing"));
  EXPECT_THAT(message, HasSubstr("down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj"));
  EXPECT_THROW(named_adapter_parameters(*model), c10::ValueError);
}

TEST(AttachAdapters, RefusesOptionsOutOfRangeAndANameInUse) {
  auto model = tiny_llama();
  const auto attach = [&](const LowRankOptions& low_rank) {
    attach_adapters(*model, AdapterOptions().low_rank(low_rank));
  };
  EXPECT_THAT(
      message_of([&] { attach(LowRankOptions().rank(-1)); }), HasSubstr("q_proj: rank must not be negative: -1"));
  EXPECT_THAT(message_of([&] { attach(LowRankOptions().rank(0)); }), HasSubstr("rank of at least 1"));
  EXPECT_THAT(message_of([&] { attach(LowRankOptions().dropout(1)); }), HasSubstr("dropout must be in [0, 1): 1"));
  EXPECT_THROW(named_adapter_parameters(*model), c10::ValueError);
  attach(LowRankOptions().rank(2));
  EXPECT_EQ(message_of([&] { attach(LowRankOptions().rank(2)); }), "an adapter named 'default' is attached already");
}

/// A start that needs to know more than the projection.
class FromStatistics : public Initializer {
 public:
  std::string name() const override {
    return "from_statistics";
  }
  bool needs_gradient() const override {
    return true;
  }
  bool needs_input_moment() const override {
    return true;
  }
  void initialize(const ProjectionImpl&, const WeightStatistics& statistics, InitialFactors factors) const override {
    factors.a.copy_(statistics.gradient.narrow(0, 0, factors.a.size(0)));
    factors.b.zero_();
  }
};

TEST(AttachAdapters, SaysWhichModuleLacksTheStatisticsOfAnInitializerAndAttachesNothing) {
  auto model = tiny_llama();
  const auto options = targeting(std::vector<std::string>{"q_proj"})
                           .low_rank(LowRankOptions().rank(2).initializer(std::make_shared<FromStatistics>()));
  std::map<std::string, WeightStatistics> statistics;
  const auto message = [&] {
    return message_of([&] { attach_adapters(*model, options, kDefaultAdapter, statistics); });
  };
  const std::string first = "model.layers.0.self_attn.q_proj";
  const std::string second = "model.layers.1.self_attn.q_proj";
  EXPECT_EQ(
      message(), first + ": the initializer 'from_statistics' reads the weight's gradient, which the statistics lack");
  statistics[first] = {at::ones({16, 16}), at::ones({16}), at::ones({16, 16})};
  EXPECT_THAT(message(), HasSubstr(second + ": the initializer 'from_statistics' reads the weight's gradient"));
  statistics[second] = {at::ones({16, 16}), at::ones({16}), {}};
  EXPECT_THAT(
      message(), HasSubstr(second + ": the initializer 'from_statistics' reads the moment of the weight's input"));
  statistics[second] = {at::ones({16, 8}), at::ones({16}), at::ones({16, 16})};
  EXPECT_EQ(message(), second + ": the weight's gradient must have shape [16, 16], not [16, 8]");
  EXPECT_THROW(named_adapter_parameters(*model), c10::ValueError);
  statistics[second].gradient = at::full({16, 16}, 2.0);
  EXPECT_EQ(message(), "nothing was thrown");
  EXPECT_EQ(adapter_at(model, second).lora_A.sum().item<double>(), 64.0) << "each module is given its own";
}

TEST(AttachAdapters, SaysThatATorchLinearTakesNoAdapter) {
  const auto model = std::make_shared<torch::nn::Module>();
  model->register_module("0", torch::nn::Linear(4, 4));
  model->register_module("1", Projection(4, 4));
  const std::string why =
      "0 is a torch::nn::Linear, whose forward is not virtual and cannot run an adapter: use rora::Projection or "
      "rora::RoRALinear in its place";
  EXPECT_EQ(message_of([&] { attach_adapters(*model, targeting(std::vector<std::string>{"0"})); }), why);
  EXPECT_EQ(message_of([&] { attach_adapters(*model, targeting(ModuleSelection::every_linear())); }), why);
  EXPECT_THROW(named_adapter_parameters(*model), c10::ValueError);
  EXPECT_THAT(
      attach_adapters(
          *model, targeting(ModuleSelection::every_linear()).exclude_modules(std::vector<std::string>{"0"})),
      ElementsAre("1"));
}

TEST(TargetModules, AreThoseThatAttachingAdapts) {
  auto model = tiny_llama();
  const auto options = targeting(std::vector<std::string>{"q_proj", "layers.1.mlp.up_proj"});
  const auto modules = target_modules(*model, options);
  EXPECT_THROW(named_adapter_parameters(*model), c10::ValueError);
  EXPECT_EQ(modules, attach_adapters(*model, options));
}

TEST(AttachAdapters, CountsTrainableParametersByThePapersFormula) {
  auto model = tiny_llama();
  const int64_t base = count_parameters(*model).total;
  EXPECT_EQ(count_parameters(*model).trainable, 0);
  attach_adapters(*model, AdapterOptions().low_rank(LowRankOptions().rank(2)));
  // r·L·Σ(in + out): q and o 16+16, k and v 16+8, gate, up and down 16+24.
  const int64_t expected = 2 * 2 * (2 * 32 + 2 * 24 + 3 * 40);
  EXPECT_EQ(count_parameters(*model).trainable, expected);
  EXPECT_EQ(count_parameters(*model).total, base + expected);
  EXPECT_DOUBLE_EQ(count_parameters(*model).share(), 100.0 * expected / (base + expected));
}

TEST(MergeAdapters, LeavesTheModelsLogitsAndUnmergingItsBytes) {
  for (const bool dora : {false, true}) {
    auto model = tiny_llama();
    attach_adapters(*model, AdapterOptions().low_rank(LowRankOptions().rank(2).dora(dora)));
    at::NoGradGuard no_grad;
    for (const auto& [name, parameter] : named_adapter_parameters(*model)) {
      if (name.ends_with("lora_B")) {
        at::Tensor(parameter).normal_(0.0, 0.1);
      }
    }
    const ModelInput input{at::randint(0, 32, {2, 7}, at::kLong), {}, {}};
    const at::Tensor before = model->forward(input);
    const at::Tensor weight = model->model->layers->at<DecoderLayerImpl>(0).self_attn->q_proj->weight.clone();
    merge_adapters(*model);
    EXPECT_FALSE(at::equal(model->model->layers->at<DecoderLayerImpl>(0).self_attn->q_proj->weight, weight));
    EXPECT_LT(rora::testing::relative_error(model->forward(input), before), 1e-5);
    unmerge_adapters(*model);
    EXPECT_TRUE(at::equal(model->model->layers->at<DecoderLayerImpl>(0).self_attn->q_proj->weight, weight));
    EXPECT_TRUE(at::equal(model->forward(input), before));
  }
}

TEST(MergeAdapters, WhatItRefusesChangesNothing) {
  auto model = tiny_llama();
  attach_adapters(*model, targeting(std::vector<std::string>{"q_proj"}), "one");
  attach_adapters(*model, targeting(std::vector<std::string>{"q_proj", "v_proj"}), "two");
  auto& first = *model->model->layers->at<DecoderLayerImpl>(0).self_attn;
  auto& last = *model->model->layers->at<DecoderLayerImpl>(1).self_attn;
  last.q_proj->merge();
  EXPECT_THROW(DisableAdapters disabled(*model), c10::ValueError);
  EXPECT_TRUE(first.q_proj->adapters_enabled());
  EXPECT_THROW(activate_adapters(*model, "one"), c10::ValueError);
  EXPECT_EQ(first.q_proj->active_name(), "two");
  EXPECT_THROW(detach_adapters(*model, "two"), c10::ValueError);
  EXPECT_NE(first.q_proj->adapter("two"), nullptr);
}

TEST(ActivateAdapters, SwitchesTheWholeModel) {
  auto model = tiny_llama();
  attach_adapters(*model, targeting(std::vector<std::string>{"q_proj"}), "one");
  attach_adapters(*model, targeting(std::vector<std::string>{"v_proj"}), "two");
  auto& attention = *model->model->layers->at<DecoderLayerImpl>(0).self_attn;
  EXPECT_NE(attention.v_proj->active_adapter(), nullptr);
  activate_adapters(*model, "one");
  EXPECT_NE(attention.q_proj->active_adapter(), nullptr);
  EXPECT_EQ(attention.v_proj->active_adapter(), nullptr);
  for (const auto& [name, parameter] : named_adapter_parameters(*model, "one")) {
    EXPECT_TRUE(parameter.requires_grad()) << name;
  }
  EXPECT_EQ(count_parameters(*model).trainable, 2 * 2 * (16 + 16)) << "q_proj alone, in two layers";
  EXPECT_THROW(activate_adapters(*model, "three"), c10::ValueError);
  detach_adapters(*model, "one");
  EXPECT_THROW(detach_adapters(*model, "one"), c10::ValueError);
}

} // namespace
} // namespace rora
