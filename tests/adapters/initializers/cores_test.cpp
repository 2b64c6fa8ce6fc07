// The starts of adapters that train a square R between A and B.

#include "adapters/low_rank_support.h"
#include "support.h"

#include <rora/adapters/combine.h>
#include <rora/adapters/initializers/edora.h>
#include <rora/adapters/initializers/lora_sb.h>

#include <gmock/gmock.h>

namespace rora {
namespace {

using namespace rora::testing;
using ::testing::HasSubstr;

constexpr double kStep = 2e-3;

/// s·B·R·A.
at::Tensor change_by_core(const LowRankAdapter& adapter) {
  return (adapter.scale() * adapter.lora_B.mm(adapter.lora_R).mm(adapter.lora_A)).detach();
}

LowRankOptions with_core(std::shared_ptr<const Initializer> initializer) {
  return LowRankOptions().rank(3).alpha(3).scaling(Scaling::kStandard).initializer(std::move(initializer)).core(true);
}

TEST(LoRASB, IsTheNearestOfItsRankToTheFirstStepOfAdamBetweenOrthonormalFactors) {
  Projection projection = graded_projection();
  const at::Tensor gradient = graded_gradient();
  const at::Tensor weight = projection->weight.detach().clone();
  for (const double alpha : {3.0, 12.0}) { // the change is the same at every scale
    const auto adapter = begin(projection, with_core(lora_sb(kStep)).alpha(alpha), {gradient, {}, {}});
    const auto [u, s, v] = at::linalg_svd(-kStep * gradient.sign(), /*full_matrices=*/false);
    const at::Tensor nearest = (u.narrow(1, 0, 3) * s.narrow(0, 0, 3)).mm(v.narrow(0, 0, 3));
    EXPECT_LT(relative_error(change_by_core(*adapter), nearest), 1e-5);
    const at::Tensor one = at::eye(3);
    EXPECT_LT((adapter->lora_A.mm(adapter->lora_A.t()) - one).abs().max().item<double>(), 1e-6);
    EXPECT_LT((adapter->lora_B.t().mm(adapter->lora_B) - one).abs().max().item<double>(), 1e-6);
  }
  EXPECT_TRUE(at::equal(projection->weight, weight)) << "the base stays";
}

TEST(LoRASB, AStepOfDescentOnRMovesTheWeightByTheGradientWithinTheFactors) {
  Projection projection = graded_projection();
  const auto adapter = begin(projection, with_core(lora_sb(kStep)), {graded_gradient(), {}, {}});
  projection->attach(kDefaultAdapter, adapter);
  const at::Tensor before = change_by_core(*adapter);
  const at::Tensor x = at::randn({20, 12}), weights = at::randn({20, 10});
  (projection->forward(x) * weights).sum().backward();
  constexpr double kRate = 0.1;
  {
    at::NoGradGuard no_grad;
    adapter->lora_R.sub_(adapter->lora_R.grad(), kRate);
  }
  const at::Tensor gradient = weights.t().mm(x); // ∂L/∂W
  const at::Tensor on_b = adapter->lora_B.mm(adapter->lora_B.t()), on_a = adapter->lora_A.t().mm(adapter->lora_A);
  EXPECT_LT(relative_error(change_by_core(*adapter) - before, -kRate * on_b.mm(gradient).mm(on_a)), 1e-5);
}

TEST(LoRASB, LowersTheLossOfTheCapturedBatchesWhichTheOppositeSignRaises) {
  auto model = tiny_llama();
  const double before = loss_of_batches(model);
  auto options = AdapterOptions().low_rank(with_core(lora_sb(kStep)));
  attach_adapters(*model, options, kDefaultAdapter, captured(model, options));
  EXPECT_LT(loss_of_batches(model), before);
  at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : named_adapter_parameters(*model)) {
    EXPECT_TRUE(name.ends_with("lora_R")) << name << ": R alone is trained";
    at::Tensor(tensor).neg_();
  }
  EXPECT_GT(loss_of_batches(model), before);
}

TEST(LoRASB, TheAverageOfClientsThatTrainedTheirCoresIsThatOfTheCores) { // Fed-SB, arXiv 2502.15436
  const TemporaryFolder folder;
  auto model = tiny_llama();
  const auto options = AdapterOptions().low_rank(with_core(lora_sb(kStep)));
  attach_adapters(*model, options, kDefaultAdapter, captured(model, options));
  const std::string module = "model.layers.0.self_attn.q_proj";
  const auto adapter = adapter_of(model, module);
  std::vector<LowRankFolder> clients;
  std::vector<at::Tensor> cores;
  for (const char* name : {"one", "two"}) {
    at::NoGradGuard no_grad;
    for (at::Tensor core : adapter_parameters(*model)) {
      core.normal_();
    }
    cores.push_back(adapter->lora_R.detach().to(at::kDouble));
    save_adapter(*model, folder / name, SaveAdapterOptions().base_model("tiny"));
    clients.push_back(read_low_rank_folder(folder / name));
  }
  const CombinedAdapter mean = combine_adapters(clients, {0.25, 0.75});
  EXPECT_EQ(mean.shared_b, static_cast<int64_t>(mean.adapter.modules.size())) << "no rank is added";
  const at::Tensor core = 0.25 * cores[0] + 0.75 * cores[1];
  const at::Tensor expected =
      adapter->scale() * adapter->lora_B.to(at::kDouble).mm(core).mm(adapter->lora_A.to(at::kDouble));
  EXPECT_LT(relative_error(dense(mean.adapter.modules.at(module)), expected), 1e-6);
}

TEST(LoRASB, RefusesWhatGivesNoDirectionAndAnAdapterWithoutACore) {
  Projection projection = graded_projection();
  EXPECT_THAT(
      [&] {
        begin(projection, with_core(lora_sb(kStep)), {at::zeros({10, 12}), {}, {}});
      },
      ::testing::ThrowsMessage<c10::ValueError>(HasSubstr("the gradient is 0")));
  EXPECT_THAT(
      [&] {
        begin(projection, with_core(lora_sb(kStep)).core(false), {graded_gradient(), {}, {}});
      },
      ::testing::ThrowsMessage<c10::ValueError>(HasSubstr("a start of adapters with a core")));
  EXPECT_THROW(lora_sb(0.0), c10::ValueError);
}

TEST(EDoRA, TrainsANearlyEmptyCoreBetweenTheWeightsFirstSingularVectors) {
  Projection projection = graded_projection();
  const at::Tensor weight = projection->weight.detach();
  const auto adapter = begin(projection, with_core(edora()).dora(true));
  const auto [u, s, v] = at::linalg_svd(weight, /*full_matrices=*/false);
  const at::Tensor first = (u.narrow(1, 0, 3) * s.narrow(0, 0, 3)).mm(v.narrow(0, 0, 3));
  EXPECT_LT(relative_error(adapter->lora_B.mm(adapter->lora_A), first), 1e-5);
  EXPECT_LT(adapter->lora_R.abs().max().item<double>(), 5e-5);
  EXPECT_GT(adapter->lora_R.abs().min().item<double>(), 0.0);
  const at::Tensor x = at::randn({4, 12});
  const at::Tensor y = projection->forward(x);
  projection->attach(kDefaultAdapter, adapter);
  EXPECT_LT(relative_error(projection->forward(x), y), 1e-3);
}

} // namespace
} // namespace rora
