#include "support/principal.h"
#include "support/gradcheck.h"
#include "support/test_data.h"
#include "support/tiny_llama.h"

#include <rora/adapters/peft_folder.h>
#include <rora/checkpoint/file.h>
#include <rora/core/low_rank_adapter.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cmath>

namespace rora {
namespace {

using nlohmann::json;
using rora::testing::relative_error;
using rora::testing::TemporaryFolder;
using rora::testing::tiny_llama;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::string kFirstQ = "model.layers.0.self_attn.q_proj";
const std::string kLastDown = "model.layers.1.mlp.down_proj";

at::Tensor logits(CausalLM model) {
  at::NoGradGuard no_grad;
  return model->forward({at::arange(10, at::kLong).view({1, 10}), {}, {}});
}

ProjectionImpl& projection(torch::nn::Module& model, const std::string& module) {
  return *model.named_modules()[module]->as<ProjectionImpl>();
}

void randomise(torch::nn::Module& model) {
  at::NoGradGuard no_grad;
  for (const auto& [name, parameter] : named_adapter_parameters(model)) {
    at::Tensor(parameter).add_(at::randn_like(parameter), 0.1);
  }
}

/// Puts a low-rank adapter into a projection by hand, in the place of one of its name.
void put(torch::nn::Module& model, const std::string& module, const LowRankOptions& options) {
  ProjectionImpl& chosen = projection(model, module);
  if (chosen.adapter(kDefaultAdapter)) {
    chosen.detach(kDefaultAdapter);
  }
  chosen.attach(kDefaultAdapter, std::make_shared<LowRankAdapter>(chosen, options));
}

json config_of(const std::filesystem::path& folder) {
  return json::parse(read_file(folder / "adapter_config.json"));
}

std::string refusal(const torch::nn::Module& model) {
  const TemporaryFolder folder;
  try {
    save_adapter(model, folder / "adapter");
  } catch (const c10::ValueError& error) {
    EXPECT_FALSE(std::filesystem::exists(folder / "adapter"));
    return error.what_without_backtrace();
  }
  return "nothing was thrown";
}

/// Saves the adapters, loads them on another tiny LLaMA, and expects its logits to be those of `model`.
json expect_the_same_once_loaded(DecoderForCausalLM model, double tolerance = 0.0, bool portable = false) {
  const TemporaryFolder folder;
  save_adapter(*model, folder.path(), SaveAdapterOptions().portable(portable));
  auto other = tiny_llama();
  load_adapter(*other, folder.path());
  EXPECT_LE(relative_error(logits(other), logits(model)), tolerance);
  save_adapter(*other, folder / "again");
  EXPECT_EQ(read_file(folder / "again/adapter_config.json"), read_file(folder.path() / "adapter_config.json"));
  return config_of(folder.path());
}

TEST(SaveAdapter, ThereIsNoConfigThatTheAdaptersContradict) {
  auto model = tiny_llama();
  attach_adapters(*model, AdapterOptions().low_rank(LowRankOptions().rank(4).alpha(8)));
  randomise(*model);
  const json config = expect_the_same_once_loaded(model);
  EXPECT_EQ(config.at("r"), 4);
  EXPECT_EQ(config.at("lora_alpha"), 8);
}

TEST(SaveAdapter, ARankOrAlphaOfAnAdaptersOwnIsWrittenByItsModulesName) {
  auto model = tiny_llama();
  attach_adapters(
      *model, AdapterOptions().low_rank(LowRankOptions().rank(4).alpha(8)).rank_pattern({{"self_attn.q_proj", 3}}));
  put(*model, kFirstQ, LowRankOptions().rank(2).alpha(8));
  put(*model, kLastDown, LowRankOptions().rank(4).alpha(2.5));
  randomise(*model);
  const json config = expect_the_same_once_loaded(model);
  EXPECT_EQ(config.at("r"), 4);
  EXPECT_EQ(config.at("rank_pattern"), json({{kFirstQ, 2}, {"self_attn.q_proj", 3}}));
  EXPECT_EQ(config.at("alpha_pattern"), json({{kLastDown, 2.5}}));
}

TEST(SaveAdapter, AdaptersPutInByHandAreTargetedByTheirWholeNames) {
  auto model = tiny_llama();
  put(*model, kFirstQ, LowRankOptions().rank(3).alpha(6));
  put(*model, kLastDown, LowRankOptions().rank(5).alpha(6));
  randomise(*model);
  const json config = expect_the_same_once_loaded(model);
  EXPECT_EQ(config.at("target_modules"), json({kFirstQ, kLastDown}));
  EXPECT_EQ(config.at("rank_pattern"), json({{kLastDown, 5}}));
}

TEST(SaveAdapter, TargetsFollowWhatIsStillAttached) {
  auto model = tiny_llama();
  attach_adapters(
      *model, AdapterOptions().low_rank(LowRankOptions().rank(2)).target_modules(std::vector<std::string>{"q_proj"}));
  projection(*model, kFirstQ).detach(kDefaultAdapter);
  randomise(*model);
  const json config = expect_the_same_once_loaded(model);
  EXPECT_EQ(config.at("target_modules"), json({"model.layers.1.self_attn.q_proj"}));
}

TEST(SaveAdapter, ACloneIsSavedAsItsOriginal) {
  const TemporaryFolder folder;
  Projection original(6, 4);
  original->reset_parameters();
  const auto model = std::make_shared<torch::nn::Module>();
  model->register_module("q_proj", original);
  attach_adapters(
      *model, AdapterOptions().low_rank(LowRankOptions().rank(2)).target_modules(std::vector<std::string>{"q_proj"}));
  const auto other = std::make_shared<torch::nn::Module>();
  other->register_module("q_proj", original->clone());
  save_adapter(*model, folder / "original");
  save_adapter(*other, folder / "clone");
  for (const char* file : {"adapter_config.json", "adapter_model.safetensors"}) {
    EXPECT_EQ(read_file(folder / "original" / file), read_file(folder / "clone" / file)) << file;
  }
}

TEST(SaveAdapter, AModuleWhoseNameEndsAnothersKeepsItsOwnRank) {
  const TemporaryFolder folder;
  const auto make = [] {
    const auto model = std::make_shared<torch::nn::Module>();
    const auto inner = std::make_shared<torch::nn::Module>();
    Projection outer_q(4, 4), inner_q(4, 4);
    outer_q->reset_parameters();
    inner_q->reset_parameters();
    inner->register_module("q", inner_q);
    model->register_module("x", inner);
    model->register_module("q", outer_q);
    return model;
  };
  auto model = make();
  put(*model, "x.q", LowRankOptions().rank(3));
  put(*model, "q", LowRankOptions().rank(2));
  save_adapter(*model, folder.path());
  EXPECT_EQ(config_of(folder.path()).at("rank_pattern"), json({{"^q", 2}}));
  auto other = make();
  load_adapter(*other, folder.path());
  const auto rank = [&](const std::string& module) {
    return dynamic_cast<LowRankAdapter&>(*projection(*other, module).adapter(kDefaultAdapter)).options.rank();
  };
  EXPECT_EQ(rank("q"), 2);
  EXPECT_EQ(rank("x.q"), 3);
  projection(*model, "x.q").detach(kDefaultAdapter);
  EXPECT_THAT(refusal(*model), HasSubstr("is the end of another module's")) << "'q' would mean x.q too";
}

TEST(SaveAdapter, RefusesWhatOneFolderCannotHold) {
  const auto beside = [](const LowRankOptions& options) {
    auto model = tiny_llama();
    put(*model, kFirstQ, LowRankOptions().rank(2));
    put(*model, kLastDown, options);
    return refusal(*model);
  };
  EXPECT_EQ(beside(LowRankOptions().rank(2)), "nothing was thrown");
  EXPECT_EQ(
      beside(LowRankOptions().rank(2).scaling(Scaling::kStandard)),
      kLastDown + ": its adapter has another scaling than the others of its name: one folder holds one");
  EXPECT_THAT(
      beside(LowRankOptions().rank(2).dora(true)), HasSubstr(kLastDown + ": its adapter has another use of DoRA"));
  EXPECT_THAT(beside(LowRankOptions().rank(2).dropout(0.1)), HasSubstr("another dropout"));
}

/// A folder that had an adapter which no table knows could not be read again.
TEST(SaveAdapter, RefusesAnAdapterOfAnUnknownKind) {
  class Unknown : public Adapter {};
  auto model = tiny_llama();
  projection(*model, kFirstQ).attach(kDefaultAdapter, std::make_shared<Unknown>());
  EXPECT_THAT(refusal(*model), HasSubstr(kFirstQ + ": its adapter is not a low-rank one"));
}

class RewrittenBase : public ::testing::TestWithParam<bool> {
 protected:
  static LowRankOptions options() {
    return LowRankOptions().rank(2).alpha(3).dora(GetParam()).initializer(std::make_shared<testing::Principal>());
  }
};

TEST_P(RewrittenBase, IsSavedWithTwiceTheRankAtTheSameScaleAndLoadsOnTheUntouchedBase) {
  for (const Scaling scaling : {Scaling::kStandard, Scaling::kRankStabilized}) {
    const double factor = scaling == Scaling::kStandard ? 2.0 : std::sqrt(2.0);
    for (const bool portable : {false, true}) {
      auto model = tiny_llama();
      attach_adapters(
          *model,
          AdapterOptions()
              .low_rank(options().scaling(scaling))
              .rank_pattern({{"down_proj", 3}})
              .alpha_pattern({{"q_proj", 5.0}}));
      EXPECT_LT(relative_error(logits(model), logits(tiny_llama())), 1e-5) << "it begins as the frozen model";
      randomise(*model);
      const json config = expect_the_same_once_loaded(model, 1e-5, portable);
      EXPECT_EQ(config.at("r"), 4);
      EXPECT_EQ(config.at("rank_pattern"), json({{"down_proj", 6}}));
      EXPECT_EQ(config.at("init_lora_weights"), true);
      if (!portable) {
        EXPECT_DOUBLE_EQ(config.at("lora_alpha"), 3.0 * factor);
        EXPECT_DOUBLE_EQ(config.at("alpha_pattern").at("q_proj"), 5.0 * factor);
      } else {
        EXPECT_FALSE(config.at("use_rslora"));
      }
    }
  }
}

TEST_P(RewrittenBase, TheSavedAdapterHasTheModelsScales) {
  const TemporaryFolder folder;
  auto model = tiny_llama();
  attach_adapters(*model, AdapterOptions().low_rank(options()));
  save_adapter(*model, folder.path());
  auto other = tiny_llama();
  load_adapter(*other, folder.path());
  const auto scale = [](DecoderForCausalLM each) {
    return dynamic_cast<LowRankAdapter&>(*projection(*each, kFirstQ).adapter(kDefaultAdapter)).scale();
  };
  EXPECT_DOUBLE_EQ(scale(other), scale(model));
}

INSTANTIATE_TEST_SUITE_P(LoRAAndDoRA, RewrittenBase, ::testing::Bool());

/// Adds nothing to an MLP.
class IdleMLPAdapter : public MLPAdapter {
 public:
  at::Tensor forward(MLPImpl& mlp, const at::Tensor& x) override {
    return mlp.forward(x);
  }
  int64_t kept_numbers(const MLPImpl&) const override {
    return 0;
  }
};

TEST(SaveAdapter, AnAdapterOfAWholeBlockIsRefusedAndNotLeftOut) {
  const TemporaryFolder folder;
  auto model = tiny_llama();
  attach_adapters(*model, AdapterOptions());
  model->named_modules()["model.layers.1.mlp"]->as<MLPImpl>()->attach("default", std::make_shared<IdleMLPAdapter>());
  EXPECT_THAT(
      [&] { save_adapter(*model, folder / "adapter"); },
      ::testing::ThrowsMessage<c10::ValueError>(HasSubstr("'default' of model.layers.1.mlp is of a whole block")));
  EXPECT_FALSE(std::filesystem::exists(folder / "adapter"));
}

TEST(LoadAdapter, TakesAnotherDropoutAndRefusesOneOutOfRange) {
  const TemporaryFolder folder;
  auto model = tiny_llama();
  attach_adapters(*model, AdapterOptions().low_rank(LowRankOptions().rank(2).dropout(0.1)));
  save_adapter(*model, folder.path());
  auto other = tiny_llama();
  EXPECT_THROW(load_adapter(*other, folder.path(), LoadAdapterOptions().dropout(1.5)), c10::ValueError);
  EXPECT_THROW(named_adapter_parameters(*other), c10::ValueError);
  EXPECT_EQ(load_adapter(*other, folder.path(), LoadAdapterOptions().dropout(0.3)).low_rank().dropout(), 0.3);
  const TemporaryFolder again;
  save_adapter(*other, again.path());
  EXPECT_EQ(config_of(again.path()).at("lora_dropout"), 0.3);
  EXPECT_EQ(read_file(folder / "adapter_model.safetensors"), read_file(again / "adapter_model.safetensors"));
}

} // namespace
} // namespace rora
