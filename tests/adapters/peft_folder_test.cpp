#include "checkpoint/support.h"
#include "support/gradcheck.h"
#include "support/test_data.h"
#include "support/tiny_llama.h"

#include <rora/adapters/peft_folder.h>
#include <rora/checkpoint/file.h>
#include <rora/checkpoint/safetensors.h>
#include <rora/error.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace rora {
namespace {

using nlohmann::json;
using rora::testing::TemporaryFolder;
using rora::testing::tiny_llama;
using ::testing::HasSubstr;

/// Attaches adapters with random values everywhere.
DecoderForCausalLM adapted(const AdapterOptions& options) {
  auto model = tiny_llama();
  attach_adapters(*model, options);
  at::NoGradGuard no_grad;
  for (const auto& [name, parameter] : named_adapter_parameters(*model)) {
    at::Tensor(parameter).normal_(0.5, 0.1);
  }
  return model;
}

at::Tensor logits(CausalLM model) {
  at::NoGradGuard no_grad;
  return model->forward({at::arange(10, at::kLong).view({1, 10}), {}, {}});
}

class AdapterRoundTrip : public ::testing::TestWithParam<AdapterOptions> {};

TEST_P(AdapterRoundTrip, SaveLoadSaveIsByteEqualAndComputesTheSame) {
  TemporaryFolder folder;
  auto model = adapted(GetParam());
  save_adapter(*model, folder / "first", SaveAdapterOptions().base_model("tiny"));
  auto other = tiny_llama();
  load_adapter(*other, folder / "first");
  EXPECT_TRUE(at::equal(logits(other), logits(model)));
  save_adapter(*other, folder / "second", SaveAdapterOptions().base_model("tiny"));
  for (const char* file : {"adapter_config.json", "adapter_model.safetensors"}) {
    EXPECT_EQ(read_file(folder / "first" / file), read_file(folder / "second" / file)) << file;
  }
}

TEST_P(AdapterRoundTrip, PortableExportComputesTheSameWithoutRankStabilisedScaling) {
  TemporaryFolder folder;
  auto model = adapted(GetParam());
  save_adapter(*model, folder.path(), SaveAdapterOptions().portable(true));
  EXPECT_FALSE(json::parse(read_file(folder / "adapter_config.json")).at("use_rslora"));
  auto other = tiny_llama();
  load_adapter(*other, folder.path());
  EXPECT_LT(rora::testing::relative_error(logits(other), logits(model)), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, AdapterRoundTrip,
    ::testing::Values(
        AdapterOptions().low_rank(LowRankOptions().rank(2)),
        AdapterOptions().low_rank(LowRankOptions().rank(3).alpha(1.5).scaling(Scaling::kStandard).dropout(0.1)),
        AdapterOptions().low_rank(LowRankOptions().rank(2).dora(true)),
        AdapterOptions()
            .low_rank(LowRankOptions().rank(2).alpha(4))
            .rank_pattern({{"layers.0.self_attn.q_proj", 5}, {"mlp.down_proj", 3}})
            .alpha_pattern({{"q_proj", 2.5}})
            .layers_to_transform({0}),
        AdapterOptions()
            .low_rank(LowRankOptions().rank(2))
            .target_modules(ModuleSelection::every_linear())
            .exclude_modules(std::vector<std::string>{"o_proj"}),
        AdapterOptions()
            .low_rank(LowRankOptions().rank(2))
            .target_modules(ModuleSelection::every_linear())
            .exclude_modules(std::vector<std::string>{"o_proj"})
            .layers_to_transform({1}),
        AdapterOptions().low_rank(LowRankOptions().rank(2)).target_modules(ModuleSelection::matching(".*_proj"))));

TEST(SaveAdapter, ListsTheTargetsThatAllLinearMeansBesideLayers) {
  TemporaryFolder folder;
  const AdapterOptions options = AdapterOptions()
                                     .low_rank(LowRankOptions().rank(2))
                                     .target_modules(ModuleSelection::every_linear())
                                     .exclude_modules(std::vector<std::string>{"mlp.up_proj"})
                                     .layers_to_transform({1});
  save_adapter(*adapted(options), folder.path());
  const json config = json::parse(read_file(folder / "adapter_config.json"));
  EXPECT_EQ(
      config.at("target_modules"), json::array({"down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "v_proj"}));
  EXPECT_EQ(config.at("layers_to_transform"), json::array({1}));
}

class BadAdapterTest : public ::testing::Test {
 protected:
  BadAdapterTest() {
    save_adapter(*adapted(options), folder.path());
  }

  void set(const std::string& field, const json& value) {
    json config = json::parse(read_file(folder / "adapter_config.json"));
    config[field] = value;
    write_file(folder / "adapter_config.json", config.dump());
  }

  void rewrite(const std::function<void(NamedTensors&)>& change) {
    NamedTensors tensors;
    {
      const SafetensorsFile file(folder / "adapter_model.safetensors");
      for (const std::string& name : file.names()) {
        tensors.emplace_back(name, file.tensor(name).clone());
      }
    }
    change(tensors);
    save_safetensors(folder / "adapter_model.safetensors", tensors);
  }

  std::string failure() {
    auto model = tiny_llama();
    try {
      load_adapter(*model, folder.path());
    } catch (const FormatError& error) {
      EXPECT_THROW(named_adapter_parameters(*model), c10::ValueError) << "something stayed attached";
      return error.what();
    }
    return "nothing was thrown";
  }

  AdapterOptions options = AdapterOptions().low_rank(LowRankOptions().rank(2));
  TemporaryFolder folder;
};

TEST_F(BadAdapterTest, NamesTheConfigsField) {
  const std::vector<std::pair<std::string, json>> bad{
      {"r", 0},
      {"r", "two"},
      {"lora_alpha", "x"},
      {"lora_dropout", 1.5},
      {"use_dora", 3},
      {"bias", "all"},
      {"peft_type", "IA3"},
      {"target_modules", json::array({1})},
      {"target_modules", "(q"},
      {"fan_in_fan_out", true},
      {"modules_to_save", json::array({"norm"})},
      {"lora_bias", true},
      {"use_qalora", true},
      {"something_new", 5},
      {"rank_pattern", {{"q_proj", "x"}}},
      {"alpha_pattern", {{"q_proj", nullptr}}},
      {"layers_pattern", "h"}};
  for (const auto& [field, value] : bad) {
    const json kept = json::parse(read_file(folder / "adapter_config.json"));
    set(field, value);
    EXPECT_THAT(failure(), HasSubstr("adapter_config.json: " + field)) << value;
    write_file(folder / "adapter_config.json", kept.dump());
  }
  EXPECT_EQ(failure(), "nothing was thrown");
}

TEST_F(BadAdapterTest, RefusesInitialisationsThatChangeTheBase) {
  for (const char* value : {"pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga", "something_new"}) {
    set("init_lora_weights", value);
    EXPECT_THAT(failure(), HasSubstr("config.json: init_lora_weights is not supported: \"" + std::string(value)));
  }
  for (const json& value : std::vector<json>{true, false, nullptr, "gaussian", "eva", "orthogonal", "mica"}) {
    set("init_lora_weights", value);
    EXPECT_EQ(failure(), "nothing was thrown") << value;
  }
}

TEST_F(BadAdapterTest, NamesATargetThatTheModelLacks) {
  set("target_modules", {"q_proj", "c_attn"});
  EXPECT_THAT(failure(), HasSubstr("'c_attn' matches nothing"));
}

TEST_F(BadAdapterTest, NamesAMissingTensor) {
  rewrite([](NamedTensors& tensors) { tensors.erase(tensors.begin()); });
  EXPECT_THAT(failure(), HasSubstr("tensor base_model.model.model.layers.0.mlp.down_proj.lora_A.weight is missing"));
}

TEST_F(BadAdapterTest, NamesAnExtraTensorAndOneWithoutThePrefix) {
  rewrite(
      [](NamedTensors& tensors) { tensors.emplace_back("model.layers.0.mlp.down_proj.lora_A.weight", at::ones({1})); });
  EXPECT_THAT(failure(), HasSubstr("tensor model.layers.0.mlp.down_proj.lora_A.weight belongs to no module"));
}

TEST_F(BadAdapterTest, NamesAMisshapenTensorAndOneThatIsNotFinite) {
  rewrite([](NamedTensors& tensors) { tensors[0].second = at::ones({3, 3}); });
  EXPECT_THAT(failure(), HasSubstr("down_proj.lora_A.weight must have shape [2, 24], not [3, 3]"));
  rewrite([](NamedTensors& tensors) { tensors[0].second = at::full({2, 24}, std::nan("")); });
  EXPECT_THAT(failure(), HasSubstr("down_proj.lora_A.weight must hold finite numbers"));
}

TEST_F(BadAdapterTest, TakesACopyOfAnAdaptedBaseWeightAndRefusesAnother) {
  options.target_modules(std::vector<std::string>{"q_proj", "lm_head"});
  save_adapter(*adapted(options), folder.path());
  const std::string key = "base_model.model.lm_head.base_layer.weight";
  rewrite([&](NamedTensors& tensors) { tensors.emplace_back(key, tiny_llama()->lm_head->weight.clone()); });
  EXPECT_EQ(failure(), "nothing was thrown");
  rewrite([](NamedTensors& tensors) { tensors.back().second += 1; });
  EXPECT_THAT(failure(), HasSubstr(key + " is not the base model's weight"));
  set("target_modules", json::array({"q_proj"}));
  rewrite([](NamedTensors& tensors) {
    std::erase_if(tensors, [](const auto& named) { return named.first.find("lm_head.lora") != std::string::npos; });
  });
  EXPECT_THAT(failure(), HasSubstr(key + " belongs to no module"));
}

TEST_F(BadAdapterTest, ARankThatLiesIsFoundBeforeItIsAllocated) {
  set("r", int64_t{1} << 40);
  EXPECT_THAT(failure(), HasSubstr("rank 1099511627776 is over its 16 + 16 features"));
}

TEST_F(BadAdapterTest, LeavesAnActiveAdapterActive) {
  auto model = adapted(options);
  const at::Tensor before = logits(model);
  rewrite([](NamedTensors& tensors) { tensors[0].second = at::ones({3, 3}); });
  EXPECT_THROW(load_adapter(*model, folder.path(), "other"), FormatError);
  EXPECT_TRUE(at::equal(logits(model), before));
  EXPECT_GT(count_parameters(*model).trainable, 0);
}

TEST_F(BadAdapterTest, ANameInUseIsTheCallersMistake) {
  auto model = adapted(options);
  EXPECT_THROW(load_adapter(*model, folder.path()), c10::ValueError);
  EXPECT_NO_THROW(load_adapter(*model, folder.path(), "other"));
}

TEST_F(BadAdapterTest, AMissingScalingFieldReadsAsPeftReadsIt) {
  json config = json::parse(read_file(folder / "adapter_config.json"));
  config.erase("use_rslora");
  write_file(folder / "adapter_config.json", config.dump());
  EXPECT_EQ(read_adapter_config(folder.path()).low_rank().scaling(), Scaling::kStandard);
}

TEST(SaveAdapter, AFolderThatCannotBeMadeIsAFileError) {
  TemporaryFolder folder;
  write_file(folder / "file", "");
  const AdapterOptions options = AdapterOptions().low_rank(LowRankOptions().rank(2));
  EXPECT_THROW(save_adapter(*adapted(options), folder / "file" / "adapter"), FileError);
}

TEST(SaveAdapter, AFullDiskLeavesTheEarlierFolder) {
  TemporaryFolder folder;
  const AdapterOptions options = AdapterOptions().low_rank(LowRankOptions().rank(2));
  auto model = adapted(options);
  save_adapter(*model, folder.path());
  const std::string weights = read_file(folder / "adapter_model.safetensors");
  at::NoGradGuard no_grad;
  adapter_parameters(*model)[0].add_(1);
  const auto save = SaveAdapterOptions().base_model(std::string(100'000, 'b')); // so that the config is what fails
  {
    const rora::testing::FileSizeLimit limit(60'000);
    EXPECT_THROW(save_adapter(*model, folder.path(), save), FileError);
  }
  EXPECT_EQ(read_file(folder / "adapter_model.safetensors"), weights);
  EXPECT_EQ(rora::testing::listing(folder.path()).size(), 2u);
  save_adapter(*model, folder.path(), save);
  EXPECT_NE(read_file(folder / "adapter_model.safetensors"), weights);
}

} // namespace
} // namespace rora
