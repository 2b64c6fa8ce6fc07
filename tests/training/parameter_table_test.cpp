#include "support/gradcheck.h"

#include <rora/core/low_rank_adapter.h>
#include <rora/core/low_rank_linear.h>
#include <rora/training/adamw.h>
#include <rora/training/parameter_table.h>
#include <rora/training/trainer_options.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/optim/adamw.h>

#include <cmath>
#include <limits>

namespace rora {
namespace {

std::vector<at::Tensor> parameters(at::ScalarType dtype = at::kDouble) {
  at::manual_seed(21);
  return {
      at::randn({3, 4}, dtype).set_requires_grad(true), at::randn({5}, dtype).set_requires_grad(true),
      at::randn({2, 2}, dtype).set_requires_grad(true)};
}

/// Tensors of no model, for a table: "0", "1", …
std::vector<std::pair<std::string, at::Tensor>> named(const std::vector<at::Tensor>& tensors) {
  std::vector<std::pair<std::string, at::Tensor>> named;
  for (size_t i = 0; i < tensors.size(); ++i) {
    named.emplace_back(std::to_string(i), tensors[i]);
  }
  return named;
}

at::Tensor loss(const std::vector<at::Tensor>& p) {
  return p[0].square().sum() + (p[1] * p[1].detach().sin()).sum() + p[2].cos().sum();
}

TEST(ParameterTable, KeepValuesAndTakeGradientsInPlace) {
  const auto expected = parameters();
  auto own = parameters();
  ParameterTable flat(named(own));
  for (size_t i = 0; i < own.size(); ++i) {
    EXPECT_TRUE(at::equal(own[i], expected[i]));
  }
  loss(own).backward();
  loss(expected).backward();
  EXPECT_TRUE(at::equal(
      flat.gradients(),
      at::cat({expected[1].grad().flatten(), expected[2].grad().flatten(), expected[0].grad().flatten()})));
  flat.zero_grad();
  EXPECT_EQ(flat.gradients().abs().sum().item<double>(), 0.0);
  EXPECT_TRUE(own[0].grad().is_alias_of(flat.gradients()));
  flat.values().zero_();
  EXPECT_EQ(own[2].abs().sum().item<double>(), 0.0);
}

TEST(ParameterTable, GatherGradientsFromWhereverTheyLie) {
  auto own = parameters();
  ParameterTable flat(named(own));
  flat.gradients().fill_(1e9);
  flat.zero_grad();
  own[1].mutable_grad().reset();
  own[2].sum().backward();
  own[0].mutable_grad() = at::full({3, 4}, 2.0, at::kDouble);
  EXPECT_TRUE(at::equal(
      flat.gradients(),
      at::cat({at::zeros({5}, at::kDouble), at::ones({4}, at::kDouble), at::full({12}, 2.0, at::kDouble)})));
  own[0].sum().backward(); // is added to what is there
  EXPECT_TRUE(at::equal(flat.gradients().narrow(0, 9, 12), at::full({12}, 3.0, at::kDouble)));
}

TEST(ParameterTable, HaveAdaptersGradientsInPlaceFromTheSecondPassOn) {
  const at::Tensor x = at::randn({9, 6}), w = at::randn({5, 6});
  std::vector<at::Tensor> own{at::randn({2, 6}).set_requires_grad(true), at::randn({5, 2}).set_requires_grad(true)};
  const at::Tensor other = own[0].detach().clone().set_requires_grad(true);
  own.push_back(other); // from a node that knows of no buffer
  ParameterTable flat(named(own));
  ops::LowRankTerm term;
  term.weight = std::make_shared<ops::DenseWeight>(w);
  term.a = own[0];
  term.b = own[1];
  term.a_gradient = flat.entries()[1].gradient_buffer; // its rows are the longer ones
  term.b_gradient = flat.entries()[0].gradient_buffer;
  at::Tensor first;
  for (int pass = 0; pass < 3; ++pass) {
    flat.zero_grad();
    EXPECT_EQ(own[0].grad().defined(), pass == 0);
    EXPECT_TRUE(other.grad().defined()) << "a gradient of its own would be memory beside the buffer";
    (ops::low_rank_linear(x, {term})[0].square().sum() + other.square().sum()).backward();
    EXPECT_TRUE(own[0].grad().is_alias_of(flat.gradients()) && own[1].grad().is_alias_of(flat.gradients()));
    first = first.defined() ? first : flat.gradients().clone();
    EXPECT_LT(rora::testing::relative_error(flat.gradients(), first), 1e-6) << pass;
  }
}

TEST(ParameterTable, PutMatricesOfEquallyLongRowsTogether) {
  const auto of = [](at::IntArrayRef sizes, double value) { return at::full(sizes, value).set_requires_grad(true); };
  const std::vector<at::Tensor> own{of({2, 3}, 1.0), of({4, 2}, 2.0), of({1, 3}, 3.0), of({5}, 4.0), of({3, 2}, 5.0)};
  ParameterTable flat(named(own));
  EXPECT_TRUE(at::equal(
      flat.values(),
      at::cat({at::full({5}, 4.0), at::full({8}, 2.0), at::full({6}, 5.0), at::full({6}, 1.0), at::full({3}, 3.0)})));
}

TEST(ParameterTable, ClipByTheirWholeNorm) {
  auto own = parameters();
  ParameterTable flat(named(own));
  loss(own).backward();
  const at::Tensor before = flat.gradients().clone();
  const double norm = before.norm().item<double>();
  EXPECT_DOUBLE_EQ(flat.clip_gradients(0.0).item<double>(), norm);
  EXPECT_DOUBLE_EQ(flat.clip_gradients(2 * norm).item<double>(), norm);
  EXPECT_TRUE(at::equal(flat.gradients(), before));
  EXPECT_DOUBLE_EQ(flat.clip_gradients(norm / 4).item<double>(), norm);
  EXPECT_LT(rora::testing::relative_error(flat.gradients(), before * (norm / 4) / (norm + 1e-6)), 1e-14);
}

TEST(ParameterTable, RefuseNothingTheSameTwiceAndMixedDtypes) {
  const at::Tensor once = at::ones({2});
  EXPECT_THROW(ParameterTable(named({once, once})), c10::ValueError);
  EXPECT_THROW(ParameterTable(named({})), c10::ValueError);
  EXPECT_THROW(ParameterTable(named({at::ones({1}), at::ones({1}, at::kDouble)})), c10::ValueError);
}

/// A model with a DoRA adapter on one projection and LoRA on another, and a parameter of its own.
struct AdaptedImpl : torch::nn::Module {
  AdaptedImpl() {
    at::manual_seed(3);
    add("first", LowRankOptions().rank(2).alpha(4).dora(true));
    add("second", LowRankOptions().rank(3).alpha(3));
    other = register_parameter("other", at::randn({2, 2}));
  }

  void add(const std::string& name, const LowRankOptions& options) {
    auto projection = register_module(name, Projection(at::randn({5, 6})));
    projection->attach("default", std::make_shared<LowRankAdapter>(*projection, options));
    projections.push_back(projection);
  }

  at::Tensor loss(const at::Tensor& x) {
    return projections[0]->forward(x).square().sum() + projections[1]->forward(x).square().sum() + other.square().sum();
  }

  std::vector<Projection> projections;
  at::Tensor other;
};
TORCH_MODULE(Adapted);

TEST(ParameterTable, KnowsWhatTheTensorsOfAModelAre) {
  Adapted model;
  ParameterTable table(*model);
  std::map<std::string, ParameterRole> roles;
  for (const ParameterEntry& each : table.entries()) {
    roles[each.name] = each.role;
    EXPECT_TRUE(each.tensor.is_alias_of(table.values()));
    EXPECT_TRUE(at::equal(ParameterTable::slice(each, table.values()), each.tensor));
  }
  EXPECT_EQ(
      roles,
      (std::map<std::string, ParameterRole>{
          {"other", ParameterRole::kOther},
          {"first.default.lora_A", ParameterRole::kA},
          {"first.default.lora_B", ParameterRole::kB},
          {"first.default.lora_magnitude_vector", ParameterRole::kMagnitude},
          {"second.default.lora_A", ParameterRole::kA},
          {"second.default.lora_B", ParameterRole::kB}}));
  ASSERT_EQ(table.pairs().size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    const ParameterPair& pair = table.pairs()[i];
    const auto& adapter = dynamic_cast<const LowRankAdapter&>(*model->projections[i]->active_adapter());
    EXPECT_TRUE(table.entries()[pair.a].tensor.is_same(adapter.lora_A));
    EXPECT_TRUE(table.entries()[pair.b].tensor.is_same(adapter.lora_B));
    EXPECT_EQ(table.entries()[pair.a].pair, i);
    EXPECT_EQ(table.entries()[pair.b].pair, i);
    EXPECT_EQ(pair.scale, adapter.scale());
  }
}

TEST(ParameterTable, GivesAdaptersTheBuffersOfTheirGradientsWhileItLives) {
  Adapted model;
  const at::Tensor x = at::randn({9, 6});
  auto& adapter = dynamic_cast<LowRankAdapter&>(*model->projections[0]->active_adapter());
  {
    ParameterTable table(*model);
    const ParameterEntry& entry = table.entries()[table.pairs()[0].a];
    table.zero_grad();
    model->loss(x).backward();
    table.gradients();
    table.zero_grad();
    EXPECT_FALSE(adapter.lora_A.grad().defined()) << "its node has asked for the buffer, and needs no zeros";
    model->loss(x).backward();
    const void* place = adapter.lora_A.grad().const_data_ptr();
    EXPECT_EQ(place, ParameterTable::slice(entry, table.gradients()).const_data_ptr());
  }
  adapter.lora_A.mutable_grad().reset();
  model->loss(x).backward(); // nothing offers a buffer any more
  ops::LowRankTerm term;
  adapter.low_rank_term(*model->projections[0], term);
  EXPECT_EQ(term.a_gradient, nullptr);
  EXPECT_EQ(term.b_gradient, nullptr);
}

TEST(ParameterTable, GroupsLieTogetherAndOneGroupChangesNothing) {
  Adapted model;
  const auto names = [](const ParameterTable& table) {
    std::vector<std::string> names;
    for (const ParameterEntry& each : table.entries()) {
      names.push_back(each.name);
    }
    return names;
  };
  const std::vector<std::string> one{
      "first.default.lora_magnitude_vector",
      "other",
      "first.default.lora_B",
      "second.default.lora_B",
      "first.default.lora_A",
      "second.default.lora_A"};
  {
    const ParameterTable table(*model);
    EXPECT_EQ(names(table), one);
    EXPECT_EQ(names(ParameterTable(*model, [](const ParameterEntry&) { return ParameterGroup(); })), one);
  }
  const ParameterTable table(*model, [](const ParameterEntry& entry) {
    return ParameterGroup{entry.role == ParameterRole::kB ? 3.0 : 1.0, std::nullopt};
  });
  EXPECT_EQ(
      names(table),
      (std::vector<std::string>{
          "first.default.lora_magnitude_vector", "other", "first.default.lora_A", "second.default.lora_A",
          "first.default.lora_B", "second.default.lora_B"}));
  ASSERT_EQ(table.groups().size(), 2u);
  EXPECT_EQ(table.groups()[0].size + table.groups()[1].size, table.values().numel());
  EXPECT_EQ(table.groups()[1].begin, table.groups()[0].size);
  EXPECT_EQ(table.groups()[1].group.lr_factor, 3.0);
  EXPECT_THROW(ParameterTable(*model, [](const ParameterEntry&) { return ParameterGroup{-1.0, {}}; }), c10::ValueError);
}

TEST(AdamW, StepsEachGroupAtItsOwnRateAndDecay) {
  const auto theirs = parameters();
  auto own = parameters();
  using torch::optim::AdamWOptions;
  const auto with = [](double lr, double decay) {
    return std::make_unique<AdamWOptions>(AdamWOptions(lr).weight_decay(decay));
  };
  torch::optim::AdamW reference(
      std::vector<torch::optim::OptimizerParamGroup>{
          {{theirs[0], theirs[1]}, with(0.03, 0.1)}, {{theirs[2]}, with(0.06, 0.5)}},
      AdamWOptions(0.03));
  ParameterTable table(named(own), [](const ParameterEntry& entry) {
    return entry.name == "2" ? ParameterGroup{2.0, 0.5} : ParameterGroup();
  });
  AdamW optimizer(table, rora::AdamWOptions().weight_decay(0.1));
  for (int step = 0; step < 10; ++step) {
    reference.zero_grad();
    loss(theirs).backward();
    reference.step();
    table.zero_grad();
    loss(own).backward();
    optimizer.step(0.03);
  }
  for (size_t i = 0; i < own.size(); ++i) {
    EXPECT_LT(rora::testing::relative_error(own[i].detach(), theirs[i].detach()), 1e-12) << i;
  }
}

TEST(AdamW, RefusesOptionsOutOfRange) {
  ParameterTable table(named(parameters()));
  const double infinite = std::numeric_limits<double>::infinity();
  for (const double bad : {-1.0, std::nan(""), infinite}) {
    for (const AdamWOptions& options :
         {AdamWOptions().beta1(bad), AdamWOptions().beta2(bad), AdamWOptions().eps(bad),
          AdamWOptions().weight_decay(bad)}) {
      EXPECT_THROW(AdamW(table, options), c10::ValueError) << bad;
      EXPECT_THROW(TrainerOptions().adamw(options).validate(), c10::ValueError) << bad;
    }
  }
  EXPECT_THROW(AdamW(table, AdamWOptions().beta1(1.0)), c10::ValueError);
  EXPECT_THROW(AdamW(table, AdamWOptions().beta2(1.0)), c10::ValueError);
  EXPECT_THROW(AdamW(table, AdamWOptions().eps(0.0)), c10::ValueError);
  EXPECT_NO_THROW(AdamW(table, AdamWOptions().beta1(0.0).beta2(0.0).eps(1e-300).weight_decay(0.0)));
}

TEST(AdamW, TakesTheStepsOfTorchsOptimiser) {
  for (const double decay : {0.0, 0.1}) {
    const auto theirs = parameters();
    auto own = parameters();
    torch::optim::AdamW reference(theirs, torch::optim::AdamWOptions(0.03).weight_decay(decay));
    ParameterTable flat(named(own));
    AdamW optimizer(flat, AdamWOptions().weight_decay(decay));
    for (int step = 0; step < 20; ++step) {
      reference.zero_grad();
      loss(theirs).backward();
      reference.step();
      flat.zero_grad();
      loss(own).backward();
      optimizer.step(0.03);
    }
    for (size_t i = 0; i < own.size(); ++i) {
      EXPECT_LT(rora::testing::relative_error(own[i].detach(), theirs[i].detach()), 1e-12);
    }
  }
}

TEST(AdamW, TakesTheSameStepsOnAGpu) {
  if (!at::hasCUDA()) {
    GTEST_SKIP() << "there is no CUDA device";
  }
  const auto run = [](at::Device device) {
    auto own = parameters();
    for (at::Tensor& each : own) {
      each = each.detach().to(device).set_requires_grad(true);
    }
    ParameterTable flat(named(own));
    AdamW optimizer(flat);
    for (int step = 0; step < 5; ++step) {
      flat.zero_grad();
      loss(own).backward();
      optimizer.step(0.03);
    }
    return flat.values().cpu();
  };
  EXPECT_LT(rora::testing::relative_error(run(at::kCUDA), run(at::kCPU)), 1e-12);
}

TEST(ParameterTable, ClipOnAGpuAsOnTheCpu) {
  if (!at::hasCUDA()) {
    GTEST_SKIP() << "there is no CUDA device";
  }
  for (const double max_norm : {0.0, 0.5, 1e6}) {
    const auto clipped = [&](at::Device device) {
      auto own = parameters();
      for (at::Tensor& each : own) {
        each = each.detach().to(device).set_requires_grad(true);
      }
      ParameterTable flat(named(own));
      loss(own).backward();
      const double norm = flat.clip_gradients(max_norm).item<double>();
      return at::cat({flat.gradients().cpu(), at::full({1}, norm, at::kDouble)});
    };
    EXPECT_LT(rora::testing::relative_error(clipped(at::kCUDA), clipped(at::kCPU)), 1e-12) << max_norm;
  }
}

TEST(AdamW, AnUpdateThatIsLeftOutChangesNothing) {
  auto own = parameters(at::kFloat);
  ParameterTable flat(named(own));
  AdamW optimizer(flat);
  loss(own).backward();
  optimizer.step(0.1, at::zeros({}));
  const at::Tensor values = flat.values().clone(), average = optimizer.exp_avg.clone();
  flat.gradients().fill_(std::numeric_limits<float>::quiet_NaN());
  optimizer.step(0.1, at::ones({}));
  EXPECT_TRUE(at::equal(flat.values(), values));
  EXPECT_TRUE(at::equal(optimizer.exp_avg, average));
  flat.gradients().fill_(1.0);
  optimizer.step(0.1, at::zeros({}));
  EXPECT_FALSE(at::equal(flat.values(), values));
}

TEST(AdamW, AChangedParameterHasANewVersion) {
  auto own = parameters();
  ParameterTable flat(named(own));
  AdamW optimizer(flat);
  const auto before = own[1]._version();
  optimizer.step(0.1);
  EXPECT_NE(own[1]._version(), before);
}

} // namespace
} // namespace rora
