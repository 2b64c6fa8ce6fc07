#include <rora/model/decoder.h>
#include <rora/model/prepacked_weights.h>
#include <rora/model/pretrained.h>

#include "checkpoint/support.h"
#include "support/gradcheck.h"
#include "support/test_data.h"
#include "support/tiny_llama.h"

#include <rora/adapters/attach.h>
#include <rora/checkpoint/file.h>
#include <rora/checkpoint/model_folder.h>
#include <rora/error.h>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace rora {
namespace {

using ::testing::HasSubstr;
using testing::message_of;
using ::testing::StartsWith;
using testing::TemporaryFolder;
using testing::test_data;

at::Tensor logits(CausalLM model) {
  at::NoGradGuard no_grad;
  return model->forward({at::arange(3, 24, at::kLong).view({1, 21}), {}, {}});
}

class SaveLlama : public ::testing::TestWithParam<std::string> {};

TEST_P(SaveLlama, ThenLoadThenSaveIsByteEqualAndComputesTheSame) {
  TemporaryFolder folder;
  CausalLM original = load_model(test_data("golden") / GetParam());
  save_model(*original, folder / "first");
  CausalLM loaded = load_model(folder / "first");
  EXPECT_TRUE(at::equal(logits(loaded), logits(original)));
  save_model(*loaded, folder / "second");
  EXPECT_EQ(testing::listing(folder / "first"), testing::listing(folder / "second"));
  for (const std::string& file : testing::listing(folder / "first")) {
    EXPECT_EQ(read_file(folder / "first" / file), read_file(folder / "second" / file)) << file;
  }
}

INSTANTIATE_TEST_SUITE_P(
    , SaveLlama,
    ::testing::Values(
        "model", "forms/untied", "forms/biases", "forms/one_key_value_head", "forms/rope_linear",
        "forms/rope_dynamic_long", "forms/rope_llama3_length_outside", "forms/tied_with_only_the_head",
        "forms/tied_with_both_keys"),
    [](const auto& info) {
      const size_t slash = info.param.find('/');
      return slash == std::string::npos ? info.param : info.param.substr(slash + 1);
    });

TEST(SaveLlamaFolder, KeepsTheDtype) {
  TemporaryFolder folder;
  for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf, at::kDouble}) {
    save_model(*load_model(test_data("golden/model"), dtype), folder.path());
    EXPECT_EQ(load_model(folder.path())->dtype(), dtype);
  }
}

/// A model with adapters that change what it computes.
CausalLM adapted_model() {
  CausalLM model = load_model(test_data("golden/model"));
  at::manual_seed(2);
  attach_adapters(*model, AdapterOptions());
  at::NoGradGuard no_grad;
  for (at::Tensor parameter : adapter_parameters(*model)) {
    parameter.add_(at::randn_like(parameter), 0.1);
  }
  return model;
}

TEST(SaveAdaptedModel, ThrowsWhereAnAdapterIsActiveAndNotMerged) {
  TemporaryFolder folder;
  const CausalLM model = adapted_model();
  const std::string message = message_of<c10::ValueError>([&] { save_model(*model, folder / "model"); });
  for (const char* way_out : {"'default'", "merge_adapters", "detach_adapters", "save_adapter"}) {
    EXPECT_THAT(message, HasSubstr(way_out));
  }
  EXPECT_FALSE(std::filesystem::exists(folder / "model"));
}

TEST(SaveAdaptedModel, WritesMergedWeightsAndThoseOfTheBaseWhereNoAdapterIsActive) {
  TemporaryFolder folder;
  CausalLM base = load_model(test_data("golden/model"));
  CausalLM model = adapted_model();
  const at::Tensor adapted = logits(model);
  EXPECT_GT(testing::relative_error(adapted, logits(base)), 1e-3) << "the test could not fail";
  merge_adapters(*model);
  save_model(*model, folder / "merged");
  EXPECT_TRUE(at::equal(logits(load_model(folder / "merged")), logits(model)));
  EXPECT_LT(testing::relative_error(logits(model), adapted), 1e-5);
  unmerge_adapters(*model);
  {
    DisableAdapters disabled(*model);
    save_model(*model, folder / "disabled");
  }
  detach_adapters(*model);
  save_model(*model, folder / "detached");
  for (const char* name : {"disabled", "detached"}) {
    EXPECT_TRUE(at::equal(logits(load_model(folder / name)), logits(base))) << name;
    EXPECT_EQ(ModelFolder(folder / name).names(), ModelFolder(test_data("golden/model")).names()) << name;
  }
}

/// Works on the residual W/2, whose other half it adds.
class Residual : public Adapter {
 public:
  at::Tensor forward(const ProjectionImpl& projection, const at::Tensor& x) override {
    return projection.forward_frozen(x) * 2;
  }
  at::Tensor rewritten_weight(const ProjectionImpl& projection) const override {
    return projection.original_weight() / 2;
  }
  bool can_merge() const override {
    return true;
  }
  at::Tensor merged_weight(const ProjectionImpl& projection) const override {
    return projection.original_weight().clone();
  }
};

TEST(SaveAdaptedModel, NeverWritesTheResidualOfARewrittenBase) {
  TemporaryFolder folder;
  CausalLM base = load_model(test_data("golden/model"));
  CausalLM model = load_model(test_data("golden/model"));
  auto projection = testing::decoder_of(model)->layers->ptr<DecoderLayerImpl>(0)->mlp->up_proj;
  projection->attach("half", std::make_shared<Residual>());
  ASSERT_FALSE(at::equal(projection->weight, projection->original_weight()));
  EXPECT_THROW(save_model(*model, folder / "active"), c10::ValueError);
  projection->merge();
  save_model(*model, folder / "merged");
  projection->unmerge();
  projection->activate("");
  save_model(*model, folder / "inactive");
  for (const char* name : {"merged", "inactive"}) {
    EXPECT_TRUE(at::equal(logits(load_model(folder / name)), logits(base))) << name;
  }
}

/// A weight whose elements are whole numbers of steps.
class Steps : public ops::LinearWeight {
 public:
  Steps(const at::Tensor& weight, double step) : step_(step) {
    steps_ = register_buffer("steps", (weight / step).round().clamp(-127, 127).to(at::kChar));
  }
  int64_t in_features() const override {
    return steps_.size(1);
  }
  int64_t out_features() const override {
    return steps_.size(0);
  }
  at::ScalarType dtype() const override {
    return at::kFloat;
  }
  at::Device device() const override {
    return steps_.device();
  }
  at::Tensor forward(const at::Tensor& x) const override {
    return x.matmul(dense().t());
  }
  at::Tensor backward(const at::Tensor& dy) const override {
    return dy.matmul(dense());
  }
  at::Tensor dense() const override {
    return steps_.to(at::kFloat) * step_;
  }

 private:
  at::Tensor steps_;
  double step_;
};

TEST(SaveModelOfOtherStorage, WritesWeightsDequantised) {
  TemporaryFolder folder;
  CausalLM model = load_model(test_data("golden/forms/untied"));
  for (const auto& module : model->modules()) {
    if (auto* projection = module->as<ProjectionImpl>()) {
      projection->set_base(std::make_shared<Steps>(projection->weight, 0.01));
      EXPECT_FALSE(projection->weight.defined());
    }
  }
  save_model(*model, folder.path());
  EXPECT_EQ(ModelFolder(folder.path()).names(), ModelFolder(test_data("golden/forms/untied")).names());
  EXPECT_LT(testing::relative_error(logits(load_model(folder.path())), logits(model)), 1e-5);
  EXPECT_EQ(model->dtype(), at::kFloat);
  EXPECT_EQ(prepack_weights(model), 0);
  const at::Tensor ids = at::arange(3, 24, at::kLong).view({1, 21});
  const LossSum loss = model->loss({ids, {}, {}}, ids);
  EXPECT_NEAR(
      loss.sum.item<double>(), load_model(folder.path())->loss({ids, {}, {}}, ids).sum.item<double>(),
      1e-5 * loss.sum.item<double>());
}

TEST(SaveModelOptions, ThatTheFamilysConfigCannotSayAreRefusedByName) {
  TemporaryFolder folder;
  ProjectionBiases only_q;
  only_q.q = true;
  const std::vector<std::pair<std::string, DecoderOptions>> bad{
      {"qk_norm", testing::tiny_llama_options().qk_norm(true)},
      {"a bias of some projections alone", testing::tiny_llama_options().bias(only_q)},
      {"sliding_window", testing::tiny_llama_options().sliding_window(3)},
      {"no_rope_layers", testing::tiny_llama_options().no_rope_layers({1, 0})},
      {"embedding_multiplier", testing::tiny_llama_options().embedding_multiplier(2.0)},
      {"residual_multiplier", testing::tiny_llama_options().residual_multiplier(2.0)},
      {"attention_multiplier", testing::tiny_llama_options().attention_multiplier(2.0)},
      {"logits_scaling", testing::tiny_llama_options().logits_scaling(2.0)},
      {"'unheard'", testing::tiny_llama_options().model_type("unheard")}};
  for (const auto& [named, options] : bad) {
    const DecoderForCausalLM model = testing::tiny_llama(options);
    EXPECT_THAT(message_of<c10::ValueError>([&] { save_model(*model, folder / "model"); }), HasSubstr(named));
    EXPECT_FALSE(std::filesystem::exists(folder / "model"));
  }
  const DecoderForCausalLM gelu = testing::tiny_llama(testing::tiny_llama_options().hidden_act(Activation::kGELUTanh));
  save_model(*gelu, folder / "model");
  EXPECT_TRUE(at::equal(logits(load_model(folder / "model")), logits(gelu)));
}

TEST(SaveLlamaFolder, WhereNoneCanBeIsAFileError) {
  TemporaryFolder folder;
  write_file(folder / "file", "");
  const CausalLM model = load_model(test_data("golden/model"));
  const std::string message = message_of<FileError>([&] { save_model(*model, folder / "file" / "model"); });
  EXPECT_THAT(message, StartsWith((folder / "file" / "model").string() + ": "));
}

TEST(SaveLlamaFolder, AFullDiskLeavesTheEarlierFolder) {
  TemporaryFolder folder;
  CausalLM model = load_model(test_data("golden/model"));
  save_model(*model, folder.path());
  const std::string weights = read_file(folder / "model.safetensors");
  at::NoGradGuard no_grad;
  testing::decoder_of(model)->norm->weight.add_(1);
  model->options.eos_token_id(std::vector<int64_t>(100'000, 2)); // so that the config is what fails
  {
    const testing::FileSizeLimit limit(250'000);
    EXPECT_THROW(save_model(*model, folder.path()), FileError);
  }
  EXPECT_EQ(read_file(folder / "model.safetensors"), weights);
  EXPECT_EQ(testing::listing(folder.path()).size(), 2u);
  save_model(*model, folder.path());
  EXPECT_NE(read_file(folder / "model.safetensors"), weights);
}

} // namespace
} // namespace rora
