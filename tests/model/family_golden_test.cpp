/// Each family computes what transformers and PEFT do with the tiny model of tests/fixtures/families.

#include "checkpoint/support.h"
#include "support/golden.h"
#include "support/gradcheck.h"
#include "support/test_data.h"

#include <rora/adapters/attach.h>
#include <rora/adapters/peft_folder.h>
#include <rora/checkpoint/file.h>
#include <rora/checkpoint/safetensors.h>
#include <rora/error.h>
#include <rora/model/decoder.h>
#include <rora/model/generation.h>
#include <rora/model/pretrained.h>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <functional>

namespace rora {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using testing::message_of;
using testing::relative_error;
using testing::TemporaryFolder;

// Those of golden_test.cpp.
constexpr double kLogitsTolerance = 1e-5;
constexpr double kLossTolerance = 5e-6;
constexpr double kGradientTolerance = 1e-4;
constexpr double kMergedTolerance = 1e-5;

std::vector<std::string> families() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(testing::test_data("families"))) {
    if (std::filesystem::exists(entry.path() / "model.safetensors")) {
      names.push_back(entry.path().filename().string());
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

class FamilyGolden : public ::testing::TestWithParam<std::string> {
 protected:
  FamilyGolden()
      : folder(testing::test_data("families") / GetParam()),
        model(load_model(folder)),
        answers(folder / "answers.safetensors") {
    input.input_ids = answers.tensor("input_ids");
  }

  at::Tensor logits(CausalLM of) {
    at::NoGradGuard no_grad;
    return of->forward(input);
  }

  at::Tensor loss() {
    const LossSum sum = model->loss(input, answers.tensor("labels"));
    return sum.sum / static_cast<double>(sum.tokens);
  }

  void expect_logits_and_loss(const SafetensorsFile& stored) {
    EXPECT_LT(relative_error(logits(model), stored.tensor("logits")), kLogitsTolerance);
    EXPECT_NEAR(loss().item<double>() / stored.tensor("loss").item<double>(), 1.0, kLossTolerance);
  }

  /// Rows whose mask is a sequence's number; what is computed of padding is nobody's.
  void expect_logits_of(const std::string& rows) {
    at::NoGradGuard no_grad;
    const at::Tensor mask = answers.tensor(rows + ".attention_mask");
    const at::Tensor real = (mask > 0).unsqueeze(-1);
    const at::Tensor found = model->forward({answers.tensor(rows + ".input_ids"), mask, {}});
    EXPECT_LT(relative_error(found * real, answers.tensor(rows + ".logits") * real), kLogitsTolerance);
  }

  /// The folder's model with its config.json changed.
  void copy_changed(const std::filesystem::path& to, const std::function<void(json&)>& change) {
    std::filesystem::create_directories(to);
    std::filesystem::copy_file(folder / "model.safetensors", to / "model.safetensors");
    json config = json::parse(read_file(folder / "config.json"));
    change(config);
    write_file(to / "config.json", config.dump());
  }

  std::filesystem::path folder;
  CausalLM model;
  SafetensorsFile answers;
  ModelInput input;
};

TEST_P(FamilyGolden, IsReadByItsModelType) {
  EXPECT_EQ(model->options.model_type(), GetParam());
}

TEST_P(FamilyGolden, LogitsAndLossAgree) {
  expect_logits_and_loss(answers);
}

TEST_P(FamilyGolden, GradientsOfTheBaseAgree) {
  for (at::Tensor& parameter : model->parameters()) {
    parameter.set_requires_grad(true);
  }
  loss().backward();
  int64_t compared = 0;
  for (const auto& item : model->named_parameters()) {
    if (answers.contains("grad." + item.key())) {
      EXPECT_LT(relative_error(item.value().grad(), answers.tensor("grad." + item.key())), kGradientTolerance)
          << item.key();
      ++compared;
    } else {
      EXPECT_GT(item.value().dim(), 1) << item.key() << ": the gradients of all vectors are stored";
    }
  }
  const auto is_gradient = [](const std::string& name) { return name.starts_with("grad."); };
  EXPECT_EQ(std::count_if(answers.names().begin(), answers.names().end(), is_gradient), compared);
}

TEST_P(FamilyGolden, PaddedRowsAgree) {
  expect_logits_of("padded");
}

TEST_P(FamilyGolden, PackedRowsAgree) {
  expect_logits_of("packed");
}

TEST_P(FamilyGolden, GreedyContinuationsAgree) {
  const testing::GreedyPrompts greedy = testing::read_greedy(folder / "text.json");
  ASSERT_FALSE(greedy.prompts.empty());
  const auto options = GenerationOptions().max_new_tokens(24);
  for (size_t i = 0; i < greedy.prompts.size(); ++i) {
    EXPECT_EQ(generate(model, {greedy.prompts[i]}, options)[0], greedy.continuations[i]);
  }
  EXPECT_EQ(generate(model, greedy.prompts, options), greedy.continuations) << "in one batch, padded on the left";
}

TEST_P(FamilyGolden, PeftsAdapterAgrees) {
  const SafetensorsFile stored(folder / "adapter" / "answers.safetensors");
  EXPECT_GT(relative_error(stored.tensor("logits"), answers.tensor("logits")), 1e-2) << "the test could not fail";
  load_adapter(*model, folder / "adapter");
  expect_logits_and_loss(stored);
  loss().backward();
  const auto parameters = named_adapter_parameters(*model);
  EXPECT_EQ(parameters.size(), 8 * model->options.num_hidden_layers());
  for (const auto& [name, parameter] : parameters) {
    const at::Tensor gradient = stored.tensor("grad.base_model.model." + name + ".weight");
    EXPECT_LT(relative_error(parameter.grad(), gradient), kGradientTolerance) << name;
  }
}

TEST_P(FamilyGolden, AdapterAndMergedFolderComeBack) {
  TemporaryFolder out;
  attach_adapters(*model, AdapterOptions().low_rank(LowRankOptions().rank(2)));
  EXPECT_EQ(adapter_parameters(*model).size(), 14 * model->options.num_hidden_layers()) << "all seven projections";
  {
    at::NoGradGuard no_grad;
    at::manual_seed(3);
    for (at::Tensor parameter : adapter_parameters(*model)) {
      parameter.add_(at::randn_like(parameter), 0.1);
    }
  }
  const at::Tensor adapted = logits(model);
  EXPECT_GT(relative_error(adapted, answers.tensor("logits")), 1e-2) << "the test could not fail";
  save_adapter(*model, out / "adapter");
  CausalLM again = load_model(folder);
  load_adapter(*again, out / "adapter");
  EXPECT_TRUE(at::equal(logits(again), adapted));
  merge_adapters(*model);
  EXPECT_LT(relative_error(logits(model), adapted), kMergedTolerance);
  save_model(*model, out / "merged");
  EXPECT_TRUE(at::equal(logits(load_model(out / "merged")), logits(model)));
}

TEST_P(FamilyGolden, SavedLoadedAndSavedIsByteEqual) {
  TemporaryFolder out;
  save_model(*model, out / "first");
  CausalLM again = load_model(out / "first");
  EXPECT_TRUE(at::equal(logits(again), logits(model)));
  save_model(*again, out / "second");
  for (const std::string& file : testing::listing(out / "first")) {
    EXPECT_EQ(read_file(out / "first" / file), read_file(out / "second" / file)) << file;
  }
}

TEST_P(FamilyGolden, ConfigsOfTransformers4And5ReadAlike) {
  TemporaryFolder out;
  const auto text = [](const std::filesystem::path& path) {
    return model_config_json(read_model_config(path), "float32");
  };
  copy_changed(out / "4", [](json& config) {
    config.erase("rope_parameters");
    config["rope_scaling"] = nullptr;
    config["rope_theta"] = 321.0;
  });
  copy_changed(out / "5", [](json& config) {
    const bool nested = config.contains("rope_parameters") && config["rope_parameters"].contains("full_attention");
    const json rope{{"rope_type", "default"}, {"rope_theta", 321.0}};
    config.erase("rope_theta");
    config.erase("rope_scaling");
    config["rope_parameters"] = nested ? json{{"full_attention", rope}} : rope;
  });
  EXPECT_EQ(text(out / "4"), text(out / "5"));
  EXPECT_THAT(text(out / "4"), HasSubstr("321.0"));
  copy_changed(out / "yarn", [](json& config) {
    config.erase("rope_parameters");
    config["rope_theta"] = 321.0;
    config["rope_scaling"] = {{"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 64}};
  });
  EXPECT_THAT(
      message_of<FormatError>([&] { text(out / "yarn"); }),
      HasSubstr("rope_scaling.rope_type 'yarn' is not supported"));
}

TEST_P(FamilyGolden, WidthsMustAgreeWithTheTensorsOrAreTakenFromThem) {
  TemporaryFolder out;
  copy_changed(out / "model", [](json& config) { config["intermediate_size"] = 20; });
  EXPECT_THAT(
      message_of<FormatError>([&] { load_model(out / "model"); }), HasSubstr("intermediate_size is 20, but model."));
  const CausalLM inferred = load_model(out / "model", LoadModelOptions().infer_widths(true));
  EXPECT_TRUE(at::equal(logits(inferred), logits(model)));
}

/// What the form of the family adds to LLaMA's and leaves the names of the parameters alone, one thing taken away each.
std::vector<std::pair<const char*, DecoderOptions>> poorer(const DecoderOptions& options) {
  const auto with = [&](const auto& change) {
    DecoderOptions changed = options;
    change(changed);
    return changed;
  };
  return {
      {"sliding_window", with([](DecoderOptions& each) { each.sliding_window(0).layer_types({}); })},
      {"a window one shorter", with([](DecoderOptions& each) {
         each.sliding_window(std::max<int64_t>(each.sliding_window() - 1, 0));
         each.layer_types(each.sliding_window() > 0 ? each.layer_types() : std::vector<LayerType>());
       })},
      {"layer_types", with([](DecoderOptions& each) { each.layer_types({}); })},
      {"sliding_rope", with([](DecoderOptions& each) { each.sliding_rope(std::nullopt); })},
      {"hidden_act", with([](DecoderOptions& each) { each.hidden_act(Activation::kSiLU); })},
      {"norm_adds_one", with([](DecoderOptions& each) { each.norm_adds_one(false); })},
      {"no_rope_layers", with([](DecoderOptions& each) { each.no_rope_layers({}); })},
      {"embedding_multiplier", with([](DecoderOptions& each) { each.embedding_multiplier(1.0); })},
      {"residual_multiplier", with([](DecoderOptions& each) { each.residual_multiplier(1.0); })},
      {"attention_multiplier", with([](DecoderOptions& each) { each.attention_multiplier(0.0); })},
      {"logits_scaling", with([](DecoderOptions& each) { each.logits_scaling(1.0); })}};
}

/// Whether layers of these options differ, or what is multiplied.
bool same_form(const DecoderOptions& a, const DecoderOptions& b) {
  for (int64_t layer = 0; layer < a.num_hidden_layers(); ++layer) {
    if (a.window(layer) != b.window(layer) || a.rotates(layer) != b.rotates(layer)) {
      return false;
    }
  }
  return a.sliding_rope().has_value() == b.sliding_rope().has_value() && a.hidden_act() == b.hidden_act() &&
      a.norm_adds_one() == b.norm_adds_one() && a.embedding_multiplier() == b.embedding_multiplier() &&
      a.residual_multiplier() == b.residual_multiplier() && a.attention_multiplier() == b.attention_multiplier() &&
      a.logits_scaling() == b.logits_scaling();
}

TEST_P(FamilyGolden, IsNotAnsweredWithoutWhatItsConfigAsksFor) {
  for (const auto& [name, options] : poorer(model->options)) {
    if (same_form(options, model->options)) {
      continue;
    }
    DecoderForCausalLM changed(options);
    auto parameters = model->named_parameters();
    for (auto& item : changed->named_parameters()) {
      item.value().set_data(parameters[item.key()]);
    }
    EXPECT_GT(relative_error(logits(changed), answers.tensor("logits")), 1e-3) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(, FamilyGolden, ::testing::ValuesIn(families()), [](const auto& info) { return info.param; });

} // namespace
} // namespace rora
