#include "gated_support.h"
#include "kind_support.h"

#include <rora/adapters/sora.h>
#include <rora/core/low_rank_adapter.h>
#include <rora/core/projection.h>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace rora {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using testing::logits_of;
using testing::relative_error;
using testing::TemporaryFolder;
using ::testing::ThrowsMessage;
using testing::tiny_llama;

AdapterOptions adapters(const SoraOptions& options) {
  return AdapterOptions().kind(sora(options)).target_modules(std::vector<std::string>{"q_proj", "k_proj", "down_proj"});
}

/// A model whose adapters change it; of the first module's gates two are 0, of the second's all.
DecoderForCausalLM with_gates_shut(const SoraOptions& options) {
  auto model = tiny_llama();
  attach_adapters(*model, adapters(options));
  at::NoGradGuard no_grad;
  at::manual_seed(9);
  int64_t module = 0;
  for (auto& [name, tensor] : named_adapter_parameters(*model)) {
    if (name.ends_with("lora_B")) {
      tensor.normal_();
    } else if (name.ends_with("gate") && module++ < 2) {
      tensor.narrow(0, 1, 2).zero_();
      if (module == 2) {
        tensor.zero_();
      }
    }
  }
  return model;
}

TEST(Sora, BeginsAsTheBaseToTheBitWithGatesFromANormalDistribution) {
  auto model = tiny_llama();
  const at::Tensor frozen = logits_of(model);
  EXPECT_EQ(attach_adapters(*model, adapters(SoraOptions().rank(4))).size(), 6u);
  EXPECT_TRUE(at::equal(logits_of(model), frozen));

  at::manual_seed(7);
  Projection wide(48, 64);
  wide->reset_parameters();
  const SoraAdapter adapter(*wide, SoraOptions().rank(1000));
  EXPECT_NEAR(adapter.gate.mean().item<double>(), 0.0, 0.1);
  EXPECT_NEAR(adapter.gate.std().item<double>(), 1.0, 0.1);
  EXPECT_LE(adapter.lora_A.abs().max().item<double>(), 1.0 / std::sqrt(48.0));
  EXPECT_FALSE(adapter.lora_B.any().item<bool>());
}

TEST(Sora, HasItsFormulaAndItsGradients) {
  testing::expect_the_formula_of_gates<SoraAdapter>(SoraOptions().rank(4).alpha(6.0), 1.5);
}

TEST(Sora, WithEveryGateAtOneIsLoRA) {
  at::manual_seed(3);
  Projection projection(12, 7);
  projection->reset_parameters();
  const auto gated = std::make_shared<SoraAdapter>(*projection, SoraOptions().rank(4).alpha(6.0));
  const auto plain =
      std::make_shared<LowRankAdapter>(*projection, LowRankOptions().rank(4).alpha(6.0).scaling(Scaling::kStandard));
  {
    at::NoGradGuard no_grad;
    gated->gate.fill_(1.0);
    gated->lora_B.normal_();
    plain->lora_A.copy_(gated->lora_A);
    plain->lora_B.copy_(gated->lora_B);
  }
  const at::Tensor x = at::randn({3, 12});
  projection->attach("gated", gated);
  const at::Tensor y = projection->forward(x);
  projection->attach("plain", plain);
  projection->activate("plain");
  EXPECT_TRUE(at::equal(projection->forward(x), y));
}

class SoraFolder : public ::testing::TestWithParam<std::pair<Scaling, bool>> {};

TEST_P(SoraFolder, IsLoRAsWithoutTheRanksWhoseGateIsZero) {
  const auto [scaling, portable] = GetParam();
  auto model = with_gates_shut(SoraOptions().rank(4).alpha(6.0).scaling(scaling));
  const TemporaryFolder folder;
  save_adapter(*model, folder.path(), SaveAdapterOptions().portable(portable));
  const json config = json::parse(read_file(folder / "adapter_config.json"));
  EXPECT_EQ(config.at("peft_type"), "LORA");
  EXPECT_EQ(config.at("r"), 4);
  EXPECT_EQ(config.at("use_rslora"), scaling == Scaling::kRankStabilized && !portable);
  EXPECT_EQ(config.at("rank_pattern").at("model.layers.0.self_attn.q_proj"), 2);
  EXPECT_EQ(config.at("rank_pattern").at("model.layers.0.self_attn.k_proj"), 1) << "no gate is left: a rank of zeros";
  EXPECT_FALSE(config.at("rank_pattern").contains("model.layers.1.mlp.down_proj"));
  auto loaded = tiny_llama();
  load_adapter(*loaded, folder.path());
  EXPECT_LT(relative_error(logits_of(loaded), logits_of(model)), 1e-6);
  merge_adapters(*model);
  EXPECT_LT(relative_error(logits_of(model), logits_of(loaded)), 1e-5);
  save_adapter(*loaded, folder / "again");
  for (const char* file : {"adapter_config.json", "adapter_model.safetensors"}) {
    EXPECT_EQ(read_file(folder / "again" / file), read_file(folder / file)) << file;
  }
}

INSTANTIATE_TEST_SUITE_P(
    , SoraFolder,
    ::testing::Values(
        std::pair{Scaling::kStandard, false}, std::pair{Scaling::kRankStabilized, false},
        std::pair{Scaling::kRankStabilized, true}),
    [](const auto& info) {
      return std::string(info.param.first == Scaling::kStandard ? "OfAlphaOverRank" : "OfAlphaOverItsRoot") +
          (info.param.second ? "Portable" : "");
    });

TEST(Sora, RefusesOptionsOutOfRangeAndAdaptersThatDoNotGoTogether) {
  EXPECT_THROW(sora(SoraOptions().rank(0)), c10::ValueError);
  EXPECT_THROW(sora(SoraOptions().dropout(1.0)), c10::ValueError);
  EXPECT_THROW(sora(SoraOptions().threshold(-1.0)), c10::ValueError);
  EXPECT_THROW(sora(SoraOptions().gate_loss_weight(-1.0)), c10::ValueError);
  const TemporaryFolder folder;
  auto model = tiny_llama();
  attach_adapters(*model, adapters(SoraOptions().rank(4)));
  ProjectionImpl& down = *model->model->layers->at<DecoderLayerImpl>(1).mlp->down_proj;
  down.detach(kDefaultAdapter);
  down.attach(kDefaultAdapter, std::make_shared<SoraAdapter>(down, SoraOptions().rank(5)));
  EXPECT_THAT(
      [&] { save_adapter(*model, folder / "adapter"); },
      ThrowsMessage<c10::ValueError>(HasSubstr("its adapter has other options than the others of its name")));
}

} // namespace
} // namespace rora
