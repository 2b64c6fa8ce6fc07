// A kind of adapter in a file: a factor of each output, as (IA)³ (arXiv 2205.05638) has it. It computes by a forward of
// its own, and is trained, gone on with, saved, loaded and merged as any adapter.

#include "support/gradcheck.h"
#include "training.h"

#include <rora/adapters/adapter_kind.h>
#include <rora/checkpoint/file.h>
#include <rora/core/projection.h>

#include <gmock/gmock.h>
#include <nlohmann/json.hpp>

namespace rora {
namespace {

using nlohmann::json;
using rora::testing::adapter_values;
using rora::testing::logits;
using rora::testing::relative_error;
using rora::testing::TemporaryFolder;
using rora::testing::tiny_llama;
using ::testing::HasSubstr;

/// y = l ⊙ (W·x + bias): l `[out]`, fp32.
class OutputScale : public Adapter {
 public:
  OutputScale(int64_t out_features, double initial, at::Device device) {
    scale =
        register_parameter("scale", at::full({out_features}, initial, at::TensorOptions(at::kFloat).device(device)));
  }

  at::Tensor forward(const ProjectionImpl& projection, const at::Tensor& x) override {
    return projection.forward_frozen(x) * scale.to(x.scalar_type());
  }
  bool can_merge() const override {
    return mergeable;
  }
  at::Tensor merged_weight(const ProjectionImpl& projection) const override {
    const at::Tensor base = projection.base().dense();
    return (scale.unsqueeze(1) * base.to(scale.scalar_type())).to(base.scalar_type());
  }
  bool changes_output() const override {
    return scale.ne(1).any().item<bool>();
  }
  std::shared_ptr<Adapter> empty_copy() const override {
    return std::make_shared<OutputScale>(scale.size(0), 1.0, scale.device());
  }

  at::Tensor scale;
  bool mergeable = true;
};

class OutputScaleKind : public AdapterKind {
 public:
  explicit OutputScaleKind(double initial = 1.0) : initial_(initial) {}

  std::string peft_type() const override {
    return "TOY";
  }
  void validate(const std::string& module, const ProjectionImpl&) const override {
    TORCH_CHECK_VALUE(initial_ != 0.0, module, ": a factor that begins at 0 learns nothing");
  }
  std::shared_ptr<Adapter> make(
      const std::string&, const ProjectionImpl& projection, const WeightStatistics&) const override {
    return std::make_shared<OutputScale>(projection.out_features(), initial_, projection.base().device());
  }
  std::vector<AdapterTensor> tensors(const std::string&, const ProjectionImpl& projection) const override {
    return {{"scale", {projection.out_features()}}};
  }
  void write(JsonFields& config) const override {
    config.set("initial_scale", initial_);
  }

  /// Known to `load_adapter` from before main on.
  static const bool registered;

 private:
  double initial_;
};

const bool OutputScaleKind::registered = [] {
  register_adapter_kind({"TOY", {"initial_scale"}, [](const JsonObject& config) {
                           return std::make_shared<OutputScaleKind>(config.number("initial_scale", 1.0));
                         }});
  return true;
}();

AdapterOptions options(double initial = 1.0) {
  return AdapterOptions().kind(std::make_shared<OutputScaleKind>(initial));
}

/// Trains it, at most until `stop_after`. `losses` are those of its steps.
DecoderForCausalLM train(
    const std::filesystem::path& folder, int64_t stop_after = 1000, std::vector<double>* losses = nullptr) {
  auto model = tiny_llama();
  attach_adapters(*model, options());
  auto taken = testing::train_in(
      folder, model, TrainerOptions().lr(2e-2).max_steps(8).batches(BatchOptions().batch_size(8).seed(5)), stop_after);
  if (losses != nullptr) {
    *losses = std::move(taken);
  }
  return model;
}

TEST(AdapterKind, BeginsAsItsOptionsSay) {
  auto model = tiny_llama();
  const at::Tensor frozen = logits(model);
  EXPECT_EQ(attach_adapters(*model, options()).size(), 14u);
  EXPECT_TRUE(at::equal(logits(model), frozen));
  detach_adapters(*model);
  attach_adapters(*model, options(1.5));
  EXPECT_FALSE(at::equal(logits(model), frozen));
  detach_adapters(*model);
  EXPECT_THROW(attach_adapters(*model, options(0.0)), c10::ValueError);
  EXPECT_THROW(attach_adapters(*model, options().rank_pattern({{"q_proj", 3}})), c10::ValueError)
      << "ranks say nothing of it";
}

TEST(AdapterKind, LearnsAndGoesOnBitForBit) {
  const TemporaryFolder whole, parts;
  std::vector<double> losses;
  auto model = train(whole.path(), 1000, &losses);
  EXPECT_LT(losses.back(), losses.front());
  train(parts.path(), 3);
  auto resumed = train(parts.path());
  EXPECT_TRUE(at::equal(adapter_values(resumed), adapter_values(model)));
}

TEST(AdapterKind, IsLoadedAsItWasSaved) {
  const TemporaryFolder folder;
  auto model = train(folder.path());
  save_adapter(*model, folder / "first");
  const json config = json::parse(read_file(folder / "first/adapter_config.json"));
  EXPECT_EQ(config.at("peft_type"), "TOY");
  EXPECT_EQ(config.at("initial_scale"), 1.0);
  EXPECT_FALSE(config.contains("r"));
  auto other = tiny_llama();
  EXPECT_EQ(load_adapter(*other, folder / "first").kind()->peft_type(), "TOY");
  EXPECT_TRUE(at::equal(logits(other), logits(model)));
  save_adapter(*other, folder / "second");
  for (const char* file : {"adapter_config.json", "adapter_model.safetensors"}) {
    EXPECT_EQ(read_file(folder / "first" / file), read_file(folder / "second" / file)) << file;
  }
}

TEST(AdapterKind, MergesAndStandsBesideOthers) {
  const TemporaryFolder folder;
  auto model = train(folder.path());
  const at::Tensor adapted = logits(model);
  merge_adapters(*model);
  EXPECT_LT(relative_error(logits(model), adapted), 1e-5);
  unmerge_adapters(*model);
  EXPECT_TRUE(at::equal(logits(model), adapted));
  attach_adapters(*model, AdapterOptions().low_rank(LowRankOptions().rank(2)), "low_rank");
  EXPECT_FALSE(at::equal(logits(model), adapted));
  activate_adapters(*model, kDefaultAdapter);
  EXPECT_TRUE(at::equal(logits(model), adapted));
}

TEST(AdapterKind, OneThatNoWeightExpressesIsNotMergedHalfWay) {
  auto model = tiny_llama();
  attach_adapters(*model, options(1.5));
  auto& last = *model->model->layers->at<DecoderLayerImpl>(1).mlp->down_proj;
  dynamic_cast<OutputScale&>(*last.adapter(kDefaultAdapter)).mergeable = false;
  EXPECT_THROW(merge_adapters(*model), c10::ValueError);
  EXPECT_FALSE(model->model->layers->at<DecoderLayerImpl>(0).self_attn->q_proj->merged());
}

TEST(AdapterKind, IsNotSavedBesideAnotherKind) {
  const TemporaryFolder folder;
  auto model = tiny_llama();
  attach_adapters(*model, AdapterOptions().low_rank(LowRankOptions().rank(2)));
  auto& first = *model->model->layers->at<DecoderLayerImpl>(0).self_attn->q_proj;
  first.detach(kDefaultAdapter);
  first.attach(kDefaultAdapter, std::make_shared<OutputScale>(16, 1.0, at::kCPU));
  EXPECT_THROW(save_adapter(*model, folder.path()), c10::ValueError);
}

TEST(AdapterKind, ItsFolderIsReadAsStrictlyAsAny) {
  const TemporaryFolder folder;
  auto model = tiny_llama();
  attach_adapters(*model, options());
  save_adapter(*model, folder.path());
  const std::string kept = read_file(folder / "adapter_config.json");
  const auto failure_with = [&](const std::string& field, const json& value) -> std::string {
    json config = json::parse(kept);
    config[field] = value;
    write_file(folder / "adapter_config.json", config.dump());
    auto other = tiny_llama();
    try {
      load_adapter(*other, folder.path());
    } catch (const FormatError& error) {
      return error.what();
    }
    return "nothing was thrown";
  };
  EXPECT_EQ(failure_with("initial_scale", 2.0), "nothing was thrown");
  EXPECT_THAT(failure_with("initial_scale", "x"), HasSubstr("adapter_config.json: initial_scale must be a number"));
  EXPECT_THAT(failure_with("r", 4), HasSubstr("adapter_config.json: r is not supported")) << "another kind's field";
  EXPECT_THAT(failure_with("peft_type", "BOTTLE"), HasSubstr("PREFIX_TUNING or TOY, not BOTTLE"));
  EXPECT_THAT(failure_with("target_modules", json({"q_proj"})), HasSubstr("belongs to no module"));
  EXPECT_THROW(register_adapter_kind({"LORA", {}, [](const JsonObject&) { return nullptr; }}), c10::ValueError);
}

} // namespace
} // namespace rora
