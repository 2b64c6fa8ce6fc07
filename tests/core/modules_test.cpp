#include "modules_support.h"
#include "support/gradcheck.h"

#include <rora/core/initializer.h>
#include <rora/core/rora_linear.h>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>
#include <torch/serialize.h>

#include <memory>
#include <sstream>
#include <string>

// A module among modules: what clone, save, load, to, merge and an assigned weight do, alone and in a user's own model.
namespace rora {
namespace {

using rora::testing::ModulesTest;
using rora::testing::relative_error;
using rora::testing::small;
using rora::testing::trained;
using ::testing::AllOf;
using ::testing::HasSubstr;

template <class Function>
std::string message_of(Function function) {
  try {
    function();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "";
}

/// A user's own model, as LibTorch's documents have one cloned.
struct ModelImpl : torch::nn::Cloneable<ModelImpl> {
  explicit ModelImpl(const RoRALinearOptions& options) : options(options) {
    ModelImpl::reset();
  }
  void reset() override {
    first = register_module("first", RoRALinear(options));
    second = register_module("second", torch::nn::Linear(options.out_features(), 3));
  }
  at::Tensor forward(const at::Tensor& x) {
    return second->forward(at::relu(first->forward(x)));
  }
  RoRALinearOptions options;
  RoRALinear first{nullptr};
  torch::nn::Linear second{nullptr};
};
TORCH_MODULE(Model);

void expect_same_tensors(const torch::nn::Module& found, const torch::nn::Module& expected) {
  const auto compare = [](const auto& ours, const auto& theirs) {
    ASSERT_EQ(ours.size(), theirs.size());
    for (const auto& item : theirs) {
      const at::Tensor* tensor = ours.find(item.key());
      ASSERT_NE(tensor, nullptr) << item.key();
      EXPECT_TRUE(at::equal(*tensor, item.value())) << item.key();
      EXPECT_EQ(tensor->requires_grad(), item.value().requires_grad()) << item.key();
      EXPECT_FALSE(tensor->is_alias_of(item.value())) << item.key();
    }
  };
  compare(found.named_parameters(), expected.named_parameters());
  compare(found.named_buffers(), expected.named_buffers());
}

TEST_F(ModulesTest, ACloneComputesTheSameAndIsIndependent) {
  for (const bool dora : {false, true}) {
    RoRALinear layer = trained(RoRALinear(small().dora(dora).dropout(0.25)));
    layer->eval();
    layer->weight.set_requires_grad(true);
    layer->low_rank()->lora_A.set_requires_grad(false);
    const auto copy = std::dynamic_pointer_cast<RoRALinearImpl>(layer->clone());
    ASSERT_NE(copy, nullptr);
    expect_same_tensors(*copy, *layer);
    EXPECT_EQ(copy->active_name(), layer->active_name());
    EXPECT_EQ(copy->options.low_rank().rank(), 2);
    EXPECT_EQ(copy->low_rank()->options.dora(), dora);
    EXPECT_FALSE(copy->is_training());
    EXPECT_FALSE(copy->low_rank()->is_training());
    const at::Tensor before = layer->forward(x).detach();
    EXPECT_TRUE(at::equal(copy->forward(x), before));
    {
      at::NoGradGuard no_grad;
      for (at::Tensor& parameter : copy->parameters()) {
        parameter.add_(1.0);
      }
    }
    EXPECT_FALSE(at::equal(copy->forward(x), before));
    EXPECT_TRUE(at::equal(layer->forward(x), before));
  }
}

TEST_F(ModulesTest, AClonesGradientsReachTheClone) {
  RoRALinear layer = trained(RoRALinear(small()));
  const auto copy = std::dynamic_pointer_cast<RoRALinearImpl>(layer->clone());
  copy->forward(x).sum().backward();
  EXPECT_TRUE(copy->low_rank()->lora_B.grad().defined());
  EXPECT_FALSE(layer->low_rank()->lora_B.grad().defined());
}

TEST_F(ModulesTest, ACloneKeepsEveryAdapterAndItsConfig) {
  struct Config : AdapterConfig {};
  Projection projection(at::randn({4, 6}));
  for (const char* name : {"one", "other"}) {
    projection->attach(name, std::make_shared<LowRankAdapter>(*projection, LowRankOptions().rank(2)));
    projection->adapter(name)->config = std::make_shared<const Config>();
  }
  trained(projection);
  projection->activate("one");
  const auto copy = std::dynamic_pointer_cast<ProjectionImpl>(projection->clone());
  expect_same_tensors(*copy, *projection);
  EXPECT_EQ(copy->active_name(), "one");
  EXPECT_EQ(copy->adapter("other")->config, projection->adapter("other")->config);
  EXPECT_NE(copy->adapter("other"), projection->adapter("other"));
  projection->detach("one");
  EXPECT_NE(copy->adapter("one"), nullptr);
}

TEST_F(ModulesTest, ACloneOfAMergedLayerCanBeUnmerged) {
  RoRALinear layer = trained(RoRALinear(small()));
  const at::Tensor base = layer->weight.clone(), adapted = layer->forward(x).detach();
  layer->merge();
  const auto copy = std::dynamic_pointer_cast<RoRALinearImpl>(layer->clone());
  EXPECT_TRUE(copy->merged());
  EXPECT_TRUE(at::equal(copy->forward(x), layer->forward(x)));
  layer->unmerge();
  EXPECT_TRUE(copy->merged());
  copy->unmerge();
  EXPECT_TRUE(at::equal(copy->weight, base));
  EXPECT_TRUE(at::equal(copy->forward(x), adapted));
}

TEST_F(ModulesTest, AUsersModelIsClonedWithItsAdapter) {
  Model model = trained(Model(small().dora(true)));
  const auto copy = std::dynamic_pointer_cast<ModelImpl>(model->clone());
  expect_same_tensors(*copy, *model);
  EXPECT_TRUE(at::equal(copy->forward(x), model->forward(x)));
  copy->first->merge();
  EXPECT_LT(relative_error(copy->forward(x).detach(), model->forward(x).detach()), 1e-5);
  EXPECT_FALSE(model->first->merged());
}

TEST_F(ModulesTest, SavedAndLoadedItIsTheSame) {
  for (const bool dora : {false, true}) {
    Model model = trained(Model(small().dora(dora))), other(small().dora(dora));
    other->forward(x); // DoRA's norm is of the first values now
    std::stringstream stream;
    torch::save(model, stream);
    torch::load(other, stream);
    EXPECT_TRUE(at::equal(other->forward(x), model->forward(x)));
  }
}

TEST_F(ModulesTest, SavingAndLoadingThrowWhileAnAdapterIsMerged) {
  Model model = trained(Model(small()));
  std::stringstream stream;
  torch::save(model, stream);
  model->first->merge();
  std::stringstream unused;
  EXPECT_THAT(message_of([&] { torch::save(model, unused); }), AllOf(HasSubstr("unmerge"), HasSubstr("default")));
  EXPECT_THAT(message_of([&] { torch::load(model, stream); }), AllOf(HasSubstr("unmerge"), HasSubstr("default")));
  EXPECT_TRUE(model->first->merged());
}

TEST_F(ModulesTest, ToADtypeConvertsTheBaseAndLeavesAdaptersWide) {
  Model model = trained(Model(small().dora(true)));
  const auto adapter = model->first->low_rank();
  const at::Tensor a = adapter->lora_A.clone();
  model->to(at::kBFloat16);
  EXPECT_EQ(model->first->weight.scalar_type(), at::kBFloat16);
  EXPECT_EQ(model->first->bias.scalar_type(), at::kBFloat16);
  EXPECT_EQ(model->first->base().dtype(), at::kBFloat16);
  for (const at::Tensor& parameter : model->first->adapter_parameters()) {
    EXPECT_EQ(parameter.scalar_type(), at::kFloat);
  }
  EXPECT_TRUE(at::equal(adapter->lora_A, a));
  EXPECT_EQ(model->forward(x.to(at::kBFloat16)).scalar_type(), at::kBFloat16);
  model->to(at::kDouble);
  for (const at::Tensor& parameter : model->parameters()) {
    EXPECT_EQ(parameter.scalar_type(), at::kDouble);
  }
  EXPECT_EQ(model->forward(x.to(at::kDouble)).scalar_type(), at::kDouble);
}

TEST_F(ModulesTest, ToADtypeConvertsWhatUnmergingPutsBack) {
  RoRALinear layer = trained(RoRALinear(small()));
  const at::Tensor base = layer->weight.to(at::kBFloat16);
  layer->merge();
  layer->to(at::kBFloat16);
  layer->unmerge();
  EXPECT_EQ(layer->weight.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(at::equal(layer->weight, base));
}

TEST_F(ModulesTest, AnIntegerInputIsATypeError) {
  RoRALinear layer(small());
  EXPECT_THROW(layer->forward(at::ones({5, 6}, at::kLong)), c10::TypeError);
  EXPECT_THROW(layer->forward_frozen(at::ones({5, 6}, at::kInt)), c10::TypeError);
}

TEST_F(ModulesTest, AWrongNumberOfFeaturesIsNamed) {
  RoRALinear layer(small());
  EXPECT_THROW(layer->forward(at::ones({2, 5})), c10::ValueError);
  EXPECT_THAT(
      message_of([&] {
        layer->forward(at::ones({2, 5}));
      }),
      AllOf(HasSubstr("in_features = 6"), HasSubstr("[2, 5]")));
  EXPECT_THROW(layer->forward(at::ones({})), c10::ValueError);
}

TEST_F(ModulesTest, SizesOutOfRangeAreNamed) {
  EXPECT_THROW(RoRALinear(RoRALinearOptions(0, 8)), c10::ValueError);
  EXPECT_THAT(message_of([] { RoRALinear(RoRALinearOptions(0, 8)); }), HasSubstr("in_features"));
  EXPECT_THAT(message_of([] { RoRALinear(RoRALinearOptions(8, -1)); }), HasSubstr("out_features"));
}

TEST_F(ModulesTest, WrappingALinearFreezesItsWeightAndSharesIt) {
  torch::nn::Linear linear(6, 4);
  RoRALinear layer(linear, LowRankOptions().rank(2));
  EXPECT_FALSE(linear->weight.requires_grad());
  EXPECT_FALSE(linear->bias.requires_grad());
  {
    at::NoGradGuard no_grad;
    linear->weight.add_(1.0);
  }
  EXPECT_TRUE(at::equal(layer->weight, linear->weight));
  EXPECT_LT(relative_error(layer->forward(x).detach(), linear->forward(x)), 1e-6);
}

TEST_F(ModulesTest, AnAssignedWeightIsTheBaseAndAParameter) {
  for (const bool dora : {false, true}) {
    RoRALinear layer(small().dora(dora));
    layer->forward(x);
    const at::Tensor assigned = at::randn({4, 6});
    layer->weight = assigned;
    EXPECT_TRUE(layer->base().dense().is_same(assigned));
    EXPECT_TRUE(layer->named_parameters()["weight"].is_same(assigned));
    EXPECT_LT(relative_error(layer->forward_frozen(x), at::linear(x, assigned, layer->bias)), 1e-6);
    const auto copy = std::dynamic_pointer_cast<RoRALinearImpl>(layer->clone());
    EXPECT_TRUE(at::equal(copy->forward(x), layer->forward(x)));
  }
  RoRALinear layer(small());
  const at::Tensor before = layer->weight;
  layer->weight = at::randn({6, 4});
  EXPECT_THROW(layer->forward(x), c10::ValueError);
  layer->weight = before;
  layer->merge();
  layer->weight = at::randn({4, 6});
  EXPECT_THROW(layer->forward(x), c10::ValueError);
}

/// Half precision beside a scale, as a quantised weight is kept: buffers, no dense tensor.
class HalfWeight : public ops::LinearWeight {
 public:
  HalfWeight(int64_t out, int64_t in) : codes(register_buffer("codes", at::zeros({out, in}, at::kHalf))) {}
  explicit HalfWeight(const at::Tensor& weight) : HalfWeight(weight.size(0), weight.size(1)) {
    codes.copy_(weight);
  }
  int64_t in_features() const override {
    return codes.size(1);
  }
  int64_t out_features() const override {
    return codes.size(0);
  }
  at::ScalarType dtype() const override {
    return at::kFloat;
  }
  at::Device device() const override {
    return codes.device();
  }
  std::shared_ptr<LinearWeight> empty_copy() const override {
    return std::make_shared<HalfWeight>(out_features(), in_features());
  }
  at::Tensor forward(const at::Tensor& x) const override {
    return x.mm(dense().t().to(x.scalar_type()));
  }
  at::Tensor backward(const at::Tensor& dy) const override {
    return dy.mm(dense().to(dy.scalar_type()));
  }
  at::Tensor dense() const override {
    return codes.to(at::kFloat);
  }
  using LinearWeight::to;
  void to(at::Device device, bool non_blocking = false) override {
    ++moves;
    LinearWeight::to(device, non_blocking);
  }
  void to(at::Device device, at::ScalarType, bool non_blocking = false) override {
    to(device, non_blocking);
  }
  at::Tensor codes;
  int moves = 0;
};

TEST_F(ModulesTest, AnotherStorageReplacesTheDenseOne) {
  RoRALinear layer = trained(RoRALinear(small().dora(true)));
  const c10::weak_intrusive_ptr<c10::TensorImpl> dense(layer->weight.getIntrusivePtr());
  layer->set_base(std::make_shared<HalfWeight>(layer->weight.detach()));
  EXPECT_TRUE(dense.expired());
  EXPECT_FALSE(layer->weight.defined());
  EXPECT_FALSE(layer->named_parameters().contains("weight"));
  EXPECT_TRUE(layer->named_buffers().contains("weight.codes"));

  const at::Tensor adapted = layer->forward(x).detach(), codes = layer->named_buffers()["weight.codes"].clone();
  const auto copy = std::dynamic_pointer_cast<RoRALinearImpl>(layer->clone());
  expect_same_tensors(*copy, *layer);
  EXPECT_TRUE(at::equal(copy->forward(x), adapted));
  layer->merge();
  EXPECT_TRUE(layer->weight.defined());
  EXPECT_LT(relative_error(layer->forward(x).detach(), adapted), 1e-5);
  const auto merged = std::dynamic_pointer_cast<RoRALinearImpl>(layer->clone());
  for (RoRALinearImpl* each : {layer.get(), merged.get()}) {
    each->unmerge();
    EXPECT_FALSE(each->weight.defined());
    EXPECT_TRUE(at::equal(each->named_buffers()["weight.codes"], codes));
    EXPECT_TRUE(at::equal(each->forward(x), adapted));
  }

  std::stringstream stream;
  torch::save(layer, stream);
  {
    at::NoGradGuard no_grad;
    copy->named_buffers()["weight.codes"].zero_();
    copy->low_rank()->lora_A.zero_();
  }
  RoRALinear holder(copy);
  torch::load(holder, stream);
  EXPECT_TRUE(at::equal(copy->forward(x), adapted));

  layer->to(at::kBFloat16);
  EXPECT_TRUE(at::equal(layer->named_buffers()["weight.codes"], codes));
  EXPECT_EQ(layer->bias.scalar_type(), at::kBFloat16);
  const auto base = std::make_shared<HalfWeight>(codes);
  layer->set_base(base);
  layer->to(at::kCPU);
  layer->merge();
  layer->to(at::Device(at::kCPU), at::kFloat); // also where the merged weight stands in its place
  EXPECT_EQ(base->moves, 2);
}

TEST_F(ModulesTest, AnAdaptersNameIsAModules) {
  Projection projection(at::randn({4, 6}));
  for (const char* name : {"", "a.b", "weight", "bias"}) {
    const auto adapter = std::make_shared<LowRankAdapter>(*projection, LowRankOptions().rank(2));
    EXPECT_THROW(projection->attach(name, adapter), c10::ValueError) << name;
  }
  EXPECT_THROW(projection->attach("none", nullptr), c10::ValueError);
  EXPECT_TRUE(projection->adapters().empty());
}

TEST_F(ModulesTest, PrintsItsSizes) {
  std::ostringstream stream;
  stream << Model(small());
  EXPECT_THAT(stream.str(), HasSubstr("rora::RoRALinear(in_features=6, out_features=4, bias=true, rank=2, alpha=3)"));
  EXPECT_THAT(stream.str(), HasSubstr("rora::LowRankAdapter(rank=2, alpha=3"));
  std::ostringstream frozen;
  frozen << Projection(at::randn({4, 6}));
  EXPECT_EQ(frozen.str(), "rora::Projection(in_features=6, out_features=4, bias=false)");
}

} // namespace
} // namespace rora
