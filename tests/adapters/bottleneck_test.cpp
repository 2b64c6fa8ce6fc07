#include "kind_support.h"
#include "support/gradcheck.h"
#include "support/test_data.h"

#include <rora/adapters/bottleneck.h>
#include <rora/core/projection.h>
#include <rora/training/step_graphs.h>

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
using ::testing::ThrowsMessage;
using testing::tiny_llama;

AdapterOptions adapters(const BottleneckOptions& options) {
  const std::vector<std::string> in_series{"gate_proj", "up_proj", "down_proj"};
  const std::vector<std::string> beside{"q_proj", "up_proj", "down_proj"};
  return AdapterOptions()
      .kind(bottleneck(options))
      .target_modules(options.form() == BottleneckForm::kSeries ? in_series : beside);
}

class Bottlenecks : public ::testing::TestWithParam<BottleneckForm> {
 protected:
  BottleneckOptions options() const {
    return BottleneckOptions().form(GetParam()).width(8);
  }
};

TEST_P(Bottlenecks, BeginAsTheBaseToTheBitWhereUpIsZeroAndBesideItOtherwise) {
  auto model = tiny_llama();
  const at::Tensor frozen = logits_of(model);
  EXPECT_EQ(attach_adapters(*model, adapters(options().start(BottleneckStart::kIdentity))).size(), 6u);
  EXPECT_TRUE(at::equal(logits_of(model), frozen));
  detach_adapters(*model);
  attach_adapters(*model, adapters(options()));
  EXPECT_GT(relative_error(logits_of(model), frozen), 1e-5);
}

TEST_P(Bottlenecks, BeginAsBertsDo) {
  at::manual_seed(7);
  Projection down(48, 64);
  down->reset_parameters();
  const auto kind = bottleneck(options().width(500));
  const auto adapter = kind->make("mlp.down_proj", *down, {});
  for (const at::Tensor& each : adapter->parameters()) {
    EXPECT_NEAR(each.mean().item<double>(), 0.0, 5e-4);
    EXPECT_NEAR(each.std().item<double>(), 0.02, 4e-4);
  }
}

TEST_P(Bottlenecks, LearnASmallTaskAndGoOnBitForBit) {
  const TemporaryFolder whole, parts;
  const AdapterOptions trained = adapters(options().dropout(0.1));
  KindRun run(trained, whole.path());
  EXPECT_LT(run.losses.back(), 0.8 * run.losses.front());
  KindRun(trained, parts.path(), /*stop_after=*/5);
  const KindRun resumed(trained, parts.path());
  EXPECT_TRUE(at::equal(resumed.flat(), run.flat()));
}

TEST_P(Bottlenecks, AreLoadedAsTheyWereSaved) {
  const TemporaryFolder folder;
  KindRun run(adapters(options().scaling(0.5)), folder.path());
  const json config = expect_the_same_once_loaded(run.model);
  EXPECT_EQ(config.at("peft_type"), "BOTTLENECK");
  EXPECT_EQ(config.at("bottleneck_size"), 8);
  EXPECT_EQ(config.at("scaling"), 0.5);
  EXPECT_EQ(config.at("use_parallel_adapter"), GetParam() == BottleneckForm::kParallel);
  EXPECT_EQ(config.at("init_weights"), "bert");
}

TEST_P(Bottlenecks, AreNeverMergedAndAreSwitchedOff) {
  auto model = tiny_llama();
  const at::Tensor frozen = logits_of(model);
  attach_adapters(*model, adapters(options()));
  EXPECT_THAT(
      [&] { merge_adapters(*model); },
      ThrowsMessage<c10::ValueError>(HasSubstr("no weight does what its adapter does: it cannot be merged")));
  const DisableAdapters off(*model);
  EXPECT_TRUE(at::equal(logits_of(model), frozen));
}

TEST_P(Bottlenecks, DropInTrainingAloneByTheSeed) {
  auto model = tiny_llama();
  attach_adapters(*model, adapters(options().dropout(0.5).scaling(20.0)));
  const auto drawn = [&](uint64_t seed) {
    at::manual_seed(seed);
    return logits_of(model);
  };
  EXPECT_TRUE(at::equal(drawn(1), drawn(2)));
  model->train();
  EXPECT_TRUE(at::equal(drawn(1), drawn(1)));
  EXPECT_FALSE(at::equal(drawn(1), drawn(2)));
  EXPECT_THAT(why_not_captured(model).value_or(""), HasSubstr("dropout draws new seeds"));
}

INSTANTIATE_TEST_SUITE_P(
    , Bottlenecks, ::testing::Values(BottleneckForm::kSeries, BottleneckForm::kParallel),
    [](const auto& info) { return info.param == BottleneckForm::kSeries ? "Series" : "Parallel"; });

class BottleneckAt : public ::testing::TestWithParam<BottleneckPlace> {};

TEST_P(BottleneckAt, ItsPlaceHasTheFormulaAndItsGradients) {
  at::manual_seed(3);
  Projection projection(5, 7, /*bias=*/true);
  projection->reset_parameters();
  projection->to(at::kDouble);
  BottleneckAdapter adapter(*projection, BottleneckOptions().width(3).scaling(1.5), GetParam());
  const auto f = [](const at::Tensor& u, const at::Tensor& down, const at::Tensor& up) {
    return 1.5 * at::matmul(at::tanh(at::matmul(u, down.t())), up.t());
  };
  const auto formula = [&](const at::Tensor& x, const at::Tensor& down, const at::Tensor& up) {
    const auto linear = [&](const at::Tensor& u) { return at::linear(u, projection->weight, projection->bias); };
    switch (GetParam()) {
      case BottleneckPlace::kInput:
        return linear(x + f(x, down, up));
      case BottleneckPlace::kOutput:
        return linear(x) + f(linear(x), down, up);
      default:
        return linear(x) + f(x, down, up);
    }
  };
  const auto run = [&](const std::vector<at::Tensor>& inputs) -> std::vector<at::Tensor> {
    adapter.adapter_down = inputs[1];
    adapter.adapter_up = inputs[2];
    return {adapter.forward(*projection, inputs[0])};
  };
  const at::Tensor x = at::randn({2, 4, 5}, at::kDouble);
  const std::vector<at::Tensor> inputs{
      x, at::randn_like(adapter.adapter_down.detach()), at::randn_like(adapter.adapter_up.detach())};
  EXPECT_LT(relative_error(run(inputs)[0], formula(inputs[0], inputs[1], inputs[2])), 1e-12);
  EXPECT_LT(testing::gradient_error(run, inputs), 1e-7);
}

TEST_P(BottleneckAt, ItsPlaceIsInFp32OverALowerBaseAndRoundedOnce) {
  at::manual_seed(4);
  Projection projection(12, 12);
  projection->reset_parameters();
  projection->to(at::kBFloat16);
  auto adapter = std::make_shared<BottleneckAdapter>(*projection, BottleneckOptions().width(6), GetParam());
  EXPECT_EQ(adapter->adapter_down.scalar_type(), at::kFloat);
  projection->attach("default", adapter);
  at::NoGradGuard no_grad;
  adapter->adapter_up.normal_();
  const at::Tensor x = at::randn({9, 12}).to(at::kBFloat16);
  const at::Tensor read = GetParam() == BottleneckPlace::kOutput ? projection->forward_frozen(x) : x;
  const at::Tensor f =
      at::linear(at::linear(read.to(at::kFloat), adapter->adapter_down).tanh(), adapter->adapter_up).to(at::kBFloat16);
  const at::Tensor expected =
      GetParam() == BottleneckPlace::kInput ? projection->forward_frozen(x + f) : projection->forward_frozen(x) + f;
  EXPECT_TRUE(at::equal(projection->forward(x), expected));
}

TEST_P(BottleneckAt, ItsPlaceIsClonedWithItsTensors) {
  Projection projection(4, 6);
  projection->reset_parameters();
  projection->attach(
      "default", std::make_shared<BottleneckAdapter>(*projection, BottleneckOptions().width(3), GetParam()));
  const auto copy = std::dynamic_pointer_cast<ProjectionImpl>(projection->clone());
  const at::Tensor x = at::randn({2, 4});
  EXPECT_TRUE(at::equal(copy->forward(x), projection->forward(x)));
  at::NoGradGuard no_grad;
  copy->adapter("default")->parameters()[0].zero_();
  EXPECT_FALSE(at::equal(copy->forward(x), projection->forward(x)));
}

INSTANTIATE_TEST_SUITE_P(
    , BottleneckAt, ::testing::Values(BottleneckPlace::kInput, BottleneckPlace::kOutput, BottleneckPlace::kBeside),
    [](const auto& info) {
      return info.param == BottleneckPlace::kInput ? "Input"
          : info.param == BottleneckPlace::kOutput ? "Output"
                                                   : "Beside";
    });

TEST(Bottleneck, InSeriesStandsInTheMLPAlone) {
  auto model = tiny_llama();
  EXPECT_THAT(
      [&] { attach_adapters(*model, AdapterOptions().kind(bottleneck())); },
      ThrowsMessage<c10::ValueError>(HasSubstr("q_proj: bottlenecks in series stand at gate_proj, up_proj and down_")));
  EXPECT_THROW(named_adapter_parameters(*model), c10::ValueError);
}

TEST(Bottleneck, RefusesOptionsOutOfRange) {
  EXPECT_THROW(bottleneck(BottleneckOptions().width(0)), c10::ValueError);
  EXPECT_THROW(bottleneck(BottleneckOptions().scaling(std::numeric_limits<double>::infinity())), c10::ValueError);
  EXPECT_THROW(bottleneck(BottleneckOptions().dropout(1.0)), c10::ValueError);
}

TEST(Bottleneck, ItsFolderIsReadAsStrictlyAsAny) {
  const TemporaryFolder folder;
  auto model = tiny_llama();
  attach_adapters(*model, adapters(BottleneckOptions().width(4)));
  save_adapter(*model, folder.path());
  const auto failure = [&](const char* field, const json& value) { return failure_with(folder.path(), field, value); };
  EXPECT_EQ(failure("adapter_dropout", 0.5), "nothing was thrown");
  EXPECT_THAT(failure("non_linearity", "relu"), HasSubstr("non_linearity 'relu' is not supported (tanh is)"));
  EXPECT_THAT(failure("scaling", "learned"), HasSubstr("scaling 'learned' is not supported"));
  EXPECT_THAT(failure("scaling", 1e300), HasSubstr("scaling must be finite in float32"));
  EXPECT_THAT(failure("bias", "all"), HasSubstr("bias 'all' is not supported"));
  EXPECT_THAT(failure("bottleneck_size", 0), HasSubstr("bottleneck_size must be at least 1, not 0"));
  EXPECT_THAT(failure("bottleneck_size", int64_t{1} << 60), HasSubstr("must have shape"));
  EXPECT_THAT(failure("adapter_dropout", 1.5), HasSubstr("adapter_dropout must be in [0, 1)"));
  EXPECT_THAT(failure("init_weights", "x"), HasSubstr("init_weights must be bert or mam_adapter"));
  EXPECT_THAT(failure("use_adapterp", true), HasSubstr("use_adapterp is not supported"));
  EXPECT_THAT(failure("use_parallel_adapter", true), HasSubstr("must have shape"));
  EXPECT_THAT(failure("target_modules", json({"q_proj"})), HasSubstr("bottlenecks in series stand at"));
  EXPECT_THAT(failure("r", 4), HasSubstr("r is not supported"));
}

TEST(Bottleneck, IsGoneOnWithAtAnotherDropout) {
  const TemporaryFolder folder;
  auto model = tiny_llama();
  attach_adapters(*model, adapters(BottleneckOptions().width(4)));
  save_adapter(*model, folder.path());
  auto other = tiny_llama();
  load_adapter(*other, folder.path(), LoadAdapterOptions().dropout(0.25));
  save_adapter(*other, folder / "again");
  EXPECT_EQ(json::parse(read_file(folder / "again/adapter_config.json")).at("adapter_dropout"), 0.25);
  auto third = tiny_llama();
  EXPECT_THROW(load_adapter(*third, folder.path(), LoadAdapterOptions().dropout(1.5)), c10::ValueError);
}

TEST(Bottleneck, OfAnotherWidthIsNotSavedBesideTheOthers) {
  const TemporaryFolder folder;
  auto model = tiny_llama();
  attach_adapters(*model, adapters(BottleneckOptions().width(4)));
  ProjectionImpl& down = *model->model->layers->at<DecoderLayerImpl>(1).mlp->down_proj;
  down.detach(kDefaultAdapter);
  down.attach(
      kDefaultAdapter,
      std::make_shared<BottleneckAdapter>(down, BottleneckOptions().width(5), BottleneckPlace::kOutput));
  EXPECT_THAT(
      [&] { save_adapter(*model, folder / "adapter"); },
      ThrowsMessage<c10::ValueError>(HasSubstr("one folder holds one form and one width")));
}

} // namespace
} // namespace rora
