#include "adapters/low_rank_support.h"

#include <rora/core/low_rank_adapter.h>
#include <rora/error.h>
#include <rora/model/pretrained.h>

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

namespace rora::testing {
namespace {

using json = nlohmann::ordered_json;
using ::testing::HasSubstr;

const std::string kFirstQ = "model.layers.0.self_attn.q_proj";

TEST(LowRankFolder, HoldsTheFactorsAndScalesThatTheModelHas) {
  const TemporaryFolder folder;
  const LowRankFolder read = make_folder(folder.path(), with_patterns(LowRankOptions().rank(3).alpha(6.5).dora(true)));
  auto model = tiny_llama();
  load_adapter(*model, folder.path());
  EXPECT_EQ(read.base_model, "tiny");
  EXPECT_EQ(read.modules.size(), 14);
  for (const auto& item : model->named_modules()) {
    if (auto* projection = item.value()->as<ProjectionImpl>(); projection != nullptr && projection->active_adapter()) {
      const auto& adapter = dynamic_cast<const LowRankAdapter&>(*projection->active_adapter());
      const LowRankChange& change = read.modules.at(item.key());
      EXPECT_EQ(change.scale, adapter.scale()) << item.key();
      EXPECT_TRUE(at::equal(change.a, adapter.lora_A)) << item.key();
      EXPECT_TRUE(at::equal(change.b, adapter.lora_B)) << item.key();
      EXPECT_TRUE(at::equal(change.magnitude, adapter.lora_magnitude_vector)) << item.key();
    }
  }
}

TEST(LowRankFolder, SavedAgainHasTheSameBytes) {
  const auto lora = LowRankOptions().rank(4).alpha(8.25).scaling(Scaling::kStandard).dropout(0.125);
  for (const AdapterOptions& options :
       {AdapterOptions().low_rank(lora), with_patterns(LowRankOptions().rank(3).alpha(6.5).dora(true)),
        AdapterOptions().low_rank(lora).layers_to_transform({1}).exclude_modules(std::vector<std::string>{"k_proj"}),
        AdapterOptions().low_rank(lora).modules_to_save({"embed_tokens"}),
        AdapterOptions().low_rank(lora).trainable_token_indices({{"embed_tokens", {5, 3}}})}) {
    const TemporaryFolder folder;
    const ChangeError error = save_low_rank_folder(make_folder(folder / "first", options), folder / "second");
    expect_same_bytes(folder / "second", folder / "first");
    EXPECT_EQ(error.overall, 0.0);
    EXPECT_EQ(error.module, "");
  }
}

TEST(LowRankFolder, ConvertedToTheOtherScalingAndBackItIsTheSameChange) {
  for (const bool dora : {false, true}) {
    const TemporaryFolder folder;
    const LowRankFolder first =
        make_folder(folder / "first", with_patterns(LowRankOptions().rank(3).alpha(6.5).dora(dora)));
    save_low_rank_folder(first, folder / "standard", SaveLowRankOptions().scaling(Scaling::kStandard));
    const LowRankFolder standard = read_low_rank_folder(folder / "standard");
    save_low_rank_folder(standard, folder / "back", SaveLowRankOptions().scaling(Scaling::kRankStabilized));
    EXPECT_EQ(
        read_file(folder / "standard/adapter_model.safetensors"),
        read_file(folder / "first/adapter_model.safetensors"));
    EXPECT_EQ(config_of(folder / "standard")["use_rslora"], false);
    EXPECT_NEAR(config_of(folder / "standard")["lora_alpha"].get<double>(), 6.5 * std::sqrt(3.0), 1e-13);
    EXPECT_EQ(config_of(folder / "standard")["rank_pattern"], config_of(folder / "first")["rank_pattern"]);
    for (const LowRankFolder& each : {standard, read_low_rank_folder(folder / "back")}) {
      expect_near(dense(each), dense(first), 1e-14);
      EXPECT_LE(relative_error(logits_with(each.path), logits_with(first.path)), 1e-6);
    }
    for (const auto& [module, change] : read_low_rank_folder(folder / "back").modules) {
      EXPECT_NEAR(change.scale, first.modules.at(module).scale, 1e-14) << module;
    }
  }
}

TEST(LowRankFolder, AnAlphaThatIsAskedForIsWrittenForAllModulesAndBTakesOverTheRest) {
  for (const bool dora : {false, true}) {
    const TemporaryFolder folder;
    const LowRankFolder first =
        make_folder(folder / "first", with_patterns(LowRankOptions().rank(3).alpha(6.5).dora(dora)));
    const ChangeError error = save_low_rank_folder(first, folder / "second", SaveLowRankOptions().alpha(10.0));
    const auto config = config_of(folder / "second");
    EXPECT_EQ(config["lora_alpha"], 10);
    EXPECT_EQ(config["alpha_pattern"], json::object());
    EXPECT_EQ(config["rank_pattern"], config_of(folder / "first")["rank_pattern"]);
    EXPECT_GT(error.largest, 0.0);
    EXPECT_LT(error.largest, 0x1p-24) << "one rounding a value";
    EXPECT_LE(error.overall, error.largest);
    const LowRankFolder second = read_low_rank_folder(folder / "second");
    expect_near(dense(second), dense(first), 1e-6);
    EXPECT_LE(relative_error(logits_with(folder / "second"), logits_with(folder / "first")), 1e-5);
    const LowRankChange& before = first.modules.at(error.module);
    const LowRankChange& after = second.modules.at(error.module);
    const double dense_error = ((dense(after) - dense(before)).norm() / dense(before).norm()).item<double>();
    EXPECT_NEAR(error.largest, dense_error, 1e-3 * dense_error);
  }
}

TEST(LowRankFolder, AnAlphaOfTwiceOrHalfTheSizeRoundsNothing) {
  const TemporaryFolder folder;
  const LowRankFolder first =
      make_folder(folder / "first", AdapterOptions().low_rank(LowRankOptions().rank(4).alpha(8)));
  EXPECT_EQ(save_low_rank_folder(first, folder / "second", SaveLowRankOptions().alpha(32)).largest, 0.0);
  const LowRankFolder second = read_low_rank_folder(folder / "second");
  EXPECT_TRUE(at::equal(second.modules.at(kFirstQ).b * 4, first.modules.at(kFirstQ).b));
}

TEST(LowRankFolder, UniformLeavesNoPatternAndFillsUpWithZeros) {
  for (const bool dora : {false, true}) {
    for (const Scaling scaling : {Scaling::kStandard, Scaling::kRankStabilized}) {
      const TemporaryFolder folder;
      const LowRankFolder first =
          make_folder(folder / "first", with_patterns(LowRankOptions().rank(3).alpha(6.5).dora(dora)));
      save_low_rank_folder(first, folder / "second", SaveLowRankOptions().scaling(scaling).uniform(true));
      const auto config = config_of(folder / "second");
      EXPECT_EQ(config["r"], 5);
      EXPECT_EQ(config["rank_pattern"], json::object());
      EXPECT_EQ(config["alpha_pattern"], json::object());
      const LowRankFolder second = read_low_rank_folder(folder / "second");
      expect_near(dense(second), dense(first), 1e-6);
      EXPECT_EQ(second.modules.at(kFirstQ).a.slice(0, 1).abs().max().item<float>(), 0.0F);
      EXPECT_EQ(second.modules.at(kFirstQ).b.slice(1, 1).abs().max().item<float>(), 0.0F);
      EXPECT_LE(relative_error(logits_with(folder / "second"), logits_with(folder / "first")), 1e-5);
    }
  }
}

TEST(LowRankFolder, AlphasOfZeroAndBelowKeepTheirSigns) {
  const TemporaryFolder folder;
  const LowRankFolder first = make_folder(
      folder / "first",
      AdapterOptions().low_rank(LowRankOptions().rank(2).alpha(0)).alpha_pattern({{"q_proj", -3.0}, {"k_proj", 5.0}}));
  save_low_rank_folder(first, folder / "second", SaveLowRankOptions().scaling(Scaling::kStandard));
  save_low_rank_folder(first, folder / "third", SaveLowRankOptions().uniform(true));
  EXPECT_EQ(config_of(folder / "second")["lora_alpha"], 0);
  for (const char* name : {"second", "third"}) {
    const DenseChanges found = dense(read_low_rank_folder(folder / name));
    for (const auto& [module, change] : dense(first)) {
      EXPECT_LE((found.at(module) - change).abs().max().item<double>(), 1e-6) << module;
    }
  }
}

TEST(LowRankFolder, FoldersThatPEFTWroteComputeTheSameOnceConverted) {
  for (const auto& entry : std::filesystem::directory_iterator(test_data("golden/answers"))) {
    if (!entry.is_directory() || config_of(entry.path())["peft_type"] != "LORA") {
      continue;
    }
    const TemporaryFolder folder;
    const LowRankFolder first = read_low_rank_folder(entry.path());
    const bool standard = first.options.low_rank().scaling() == Scaling::kStandard;
    save_low_rank_folder(
        first, folder.path(),
        SaveLowRankOptions().scaling(standard ? Scaling::kRankStabilized : Scaling::kStandard).uniform(true));
    for (const char* kept :
         {"task_type", "peft_version", "base_model_name_or_path", "target_modules", "modules_to_save"}) {
      EXPECT_EQ(config_of(folder.path())[kept], config_of(entry.path())[kept]) << kept;
    }
    const auto logits = [](const std::filesystem::path& adapter) {
      CausalLM model = load_model(test_data("golden/model"));
      load_adapter(*model, adapter);
      return logits_of(model);
    };
    EXPECT_LE(relative_error(logits(folder.path()), logits(entry.path())), 1e-5) << entry.path();
  }
}

TEST(LowRankFolder, OfAdaLoraIsALowRankOneThatComputesTheSame) {
  const auto original = test_data("adalora/adapter");
  const LowRankFolder read = read_low_rank_folder(original);
  const TemporaryFolder folder;
  save_low_rank_folder(read, folder.path());
  const auto config = config_of(folder.path());
  EXPECT_EQ(config["peft_type"], "LORA");
  EXPECT_FALSE(config.contains("init_r"));
  EXPECT_FALSE(config.contains("deltaT"));
  EXPECT_EQ(config["lora_dropout"], 0.0);
  EXPECT_EQ(read.modules.at("model.layers.0.self_attn.q_proj").rank(), 2);
  const LowRankChange& without_rank = read.modules.at("model.layers.0.mlp.down_proj");
  EXPECT_EQ(without_rank.rank(), 1) << "a folder of low-rank adapters knows no module of none";
  EXPECT_FALSE(without_rank.b.any().item<bool>());
  const SafetensorsFile answers(original / "answers.safetensors");
  CausalLM model = load_model(test_data("golden/model"));
  load_adapter(*model, folder.path());
  at::NoGradGuard no_grad;
  const at::Tensor logits = model->forward({answers.tensor("input_ids"), {}, {}});
  EXPECT_LE(relative_error(logits, answers.tensor("logits")), 1e-5);
}

TEST(LowRankFolder, NamesThatAreNoRegularExpressionsAreWrittenSoThatTheyMatch) {
  const TemporaryFolder folder;
  LowRankFolder odd = make_folder(folder / "first", AdapterOptions().low_rank(LowRankOptions().rank(2)));
  const LowRankChange one = odd.modules.at(kFirstQ);
  LowRankChange other = one;
  other.a = other.a.slice(0, 0, 1);
  other.b = other.b.slice(1, 0, 1);
  odd.modules = {{"x.q", one}, {"q", other}, {"x.w(", other}, {"y.q", one}, {"z.q", one}};
  odd.config = R"({"peft_type": "LORA", "target_modules": ["q", "w("]})";
  save_low_rank_folder(odd, folder / "second");
  EXPECT_EQ(config_of(folder / "second")["rank_pattern"], json({{"w\\(", 1}, {"^q", 1}}));
  EXPECT_EQ(read_low_rank_folder(folder / "second").modules.at("x.w(").rank(), 1);
}

/// What reading a folder throws once `change` has been done to its tensors.
std::string failure(const std::function<void(TensorsByKey&)>& change) {
  const TemporaryFolder folder;
  make_folder(
      folder.path(), AdapterOptions().low_rank(LowRankOptions().rank(2).dora(true)).modules_to_save({"lm_head"}));
  TensorsByKey tensors = tensors_of(folder.path());
  change(tensors);
  write_tensors(folder.path(), tensors);
  try {
    read_low_rank_folder(folder.path());
  } catch (const FormatError& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(LowRankFolder, NamesTheTensorThatIsMissingWrongOrTooMuch) {
  const std::string key = "base_model.model." + kFirstQ;
  EXPECT_EQ(failure([](TensorsByKey&) {}), "nothing was thrown");
  for (const char* end : {".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"}) {
    EXPECT_THAT(
        failure([&](TensorsByKey& tensors) { tensors.erase(key + end); }),
        HasSubstr("tensor " + key + end + " is missing"));
    EXPECT_THAT(
        failure([&](TensorsByKey& tensors) { tensors[key + end] = at::full_like(tensors[key + end], NAN); }),
        HasSubstr(key + end + " must hold finite numbers"));
    EXPECT_THAT(failure([&](TensorsByKey& tensors) { tensors[key + end] = at::zeros({7}); }), HasSubstr(key + end));
  }
  EXPECT_THAT(
      failure([&](TensorsByKey& tensors) {
        tensors[key + ".lora_A.weight"] = at::zeros({3, 16});
      }),
      HasSubstr("must have shape [2, 16], not [3, 16]"));
  EXPECT_THAT(
      failure([&](TensorsByKey& tensors) {
        tensors["x.lora_A.weight"] = at::zeros({2, 2});
      }),
      HasSubstr("tensor x.lora_A.weight belongs to no module"));
  EXPECT_THAT(
      failure([&](TensorsByKey& tensors) { tensors["base_model.model.model.norm.weight"] = at::zeros({2}); }),
      HasSubstr("tensor base_model.model.model.norm.weight belongs to no module"));
  EXPECT_THAT(
      failure([&](TensorsByKey& tensors) {
        tensors["base_model.model.other.lora_A.weight"] = at::zeros({2, 2});
      }),
      HasSubstr("tensor base_model.model.other.lora_A.weight belongs to no module"));
  EXPECT_THAT(
      failure([&](TensorsByKey& tensors) { tensors.erase("base_model.model.lm_head.weight"); }),
      HasSubstr("no tensor of 'lm_head', which modules_to_save names"));
  EXPECT_THAT(
      failure([&](TensorsByKey& tensors) {
        std::erase_if(tensors, [](const auto& each) { return each.first.find("q_proj") != std::string::npos; });
      }),
      HasSubstr("target module 'q_proj' matches nothing"));
  EXPECT_THAT(failure([](TensorsByKey& tensors) { tensors.clear(); }), HasSubstr("holds no low-rank factors"));
}

TEST(LowRankFolder, RefusesOtherKindsAndWhatFloat32CannotHold) {
  const auto thrown = [](const std::filesystem::path& folder) -> std::string {
    try {
      read_low_rank_folder(folder);
    } catch (const FormatError& error) {
      return error.what();
    }
    return "nothing was thrown";
  };
  EXPECT_THAT(
      thrown(test_data("golden/answers/series")), HasSubstr("peft_type must be LORA or ADALORA, not BOTTLENECK"));
  EXPECT_THAT(
      thrown(test_data("golden/answers/prefix")), HasSubstr("peft_type must be LORA or ADALORA, not PREFIX_TUNING"));
  const TemporaryFolder folder;
  const LowRankFolder first = make_folder(folder / "first", AdapterOptions().low_rank(LowRankOptions().rank(2)));
  change_config(folder / "first", "peft_type", "IA3");
  EXPECT_THAT(thrown(folder / "first"), HasSubstr("not IA3"));
  const auto refusal = [&](const SaveLowRankOptions& options, LowRankFolder adapter) -> std::string {
    try {
      save_low_rank_folder(adapter, folder / "second", options);
    } catch (const c10::ValueError& error) {
      EXPECT_FALSE(std::filesystem::exists(folder / "second"));
      return error.what_without_backtrace();
    }
    return "nothing was thrown";
  };
  EXPECT_THAT(refusal(SaveLowRankOptions().alpha(1e-44), first), HasSubstr("beyond float32"));
  EXPECT_THAT(refusal(SaveLowRankOptions().alpha(1e39), first), HasSubstr("alpha, 1e+39, is beyond float32"));
  EXPECT_THAT(
      refusal(SaveLowRankOptions().alpha(std::numeric_limits<double>::quiet_NaN()), first), HasSubstr("finite"));
  LowRankFolder wide = first;
  wide.modules.at(kFirstQ).a = at::zeros({1025, 16});
  wide.modules.at(kFirstQ).b = at::zeros({16, 1025});
  EXPECT_THAT(refusal({}, wide), HasSubstr(kFirstQ + ": rank 1025 is over its 16 + 16 features"));
}

} // namespace
} // namespace rora::testing
