// Two starts in a file: one that reads the gradient of its weight, and one that rewrites the weight. Both are trained,
// gone on with, saved and loaded as any adapter.

#include "support/gradcheck.h"
#include "training.h"

#include <rora/adapters/gradient_capture.h>
#include <rora/core/low_rank_adapter.h>

#include <cmath>
#include <functional>

namespace rora {
namespace {

using rora::testing::adapter_values;
using rora::testing::counting;
using rora::testing::logits;
using rora::testing::relative_error;
using rora::testing::TemporaryFolder;
using rora::testing::tiny_llama;

/// GoRA's (arXiv 2502.12171): A as ever, and B = −ξ·G·Aᵀ·(A·Aᵀ)⁺ with ξ = γ·√in/α, so that B·A is a step down the
/// gradient G, seen through A.
class GradientStart : public Initializer {
 public:
  GradientStart(double gamma, double alpha) : gamma_(gamma), alpha_(alpha) {}

  std::string name() const override {
    return "toy_gradient";
  }
  bool needs_gradient() const override {
    return true;
  }
  void initialize(
      const ProjectionImpl& projection, const WeightStatistics& statistics, InitialFactors factors) const override {
    kaiming_uniform()->initialize(projection, statistics, factors);
    const at::Tensor a = factors.a.to(at::kDouble);
    const double xi = gamma_ * std::sqrt(static_cast<double>(projection.in_features())) / alpha_;
    const at::Tensor gradient = statistics.gradient.to(at::kDouble);
    factors.b.copy_(gradient.mm(a.t()).mm(at::linalg_pinv(a.mm(a.t()))).mul_(-xi));
  }

 private:
  double gamma_;
  double alpha_;
};

/// PiSSA's (arXiv 2404.02948): the first singular values and vectors of W go into B·A, and the rest takes W's place.
class PrincipalStart : public Initializer {
 public:
  std::string name() const override {
    return "toy_principal";
  }
  bool rewrites_base() const override {
    return true;
  }
  void initialize(const ProjectionImpl& projection, const WeightStatistics&, InitialFactors factors) const override {
    const auto [u, s, v] = at::linalg_svd(projection.base().dense().to(at::kFloat), /*full_matrices=*/false);
    const int64_t rank = factors.a.size(0);
    const at::Tensor root = (s.narrow(0, 0, rank) / factors.scale).sqrt();
    factors.a.copy_(root.unsqueeze(1) * v.narrow(0, 0, rank));
    factors.b.copy_(u.narrow(1, 0, rank) * root);
  }
};

constexpr double kAlpha = 8.0;
constexpr double kGamma = 0.05;

at::Tensor mean_loss_of(CausalLM model, int64_t batch) {
  const auto examples = counting(24);
  const Batch rows = make_batch(examples, {{2 * batch}, {2 * batch + 1}});
  const LossSum loss = model->loss({rows.input_ids, rows.attention_mask, {}, {}}, rows.labels);
  return loss.sum / static_cast<double>(loss.tokens);
}

double loss_of(CausalLM model) {
  at::NoGradGuard no_grad;
  double sum = 0.0;
  for (int64_t batch = 0; batch < 12; ++batch) {
    sum += mean_loss_of(model, batch).item<double>();
  }
  return sum;
}

AdapterOptions gradient_start() {
  return AdapterOptions().low_rank(
      LowRankOptions().rank(4).alpha(kAlpha).initializer(std::make_shared<GradientStart>(kGamma, kAlpha)));
}

std::map<std::string, WeightStatistics> captured(DecoderForCausalLM model, const AdapterOptions& options) {
  return capture_gradients(
      *model, target_modules(*model, options), 12, [&](int64_t batch) { mean_loss_of(model, batch).backward(); });
}

DecoderForCausalLM with_gradient_start() {
  auto model = tiny_llama();
  const AdapterOptions options = gradient_start();
  const auto statistics = captured(model, options);
  at::manual_seed(7);
  attach_adapters(*model, options, kDefaultAdapter, statistics);
  return model;
}

DecoderForCausalLM with_principal_start() {
  auto model = tiny_llama();
  attach_adapters(
      *model, AdapterOptions().low_rank(LowRankOptions().rank(4).initializer(std::make_shared<PrincipalStart>())));
  return model;
}

TEST(GradientStart, IsAStepDownTheGradientThroughA) {
  auto model = tiny_llama();
  const auto statistics = captured(model, gradient_start());
  const double before = loss_of(model);
  attach_adapters(*model, gradient_start(), kDefaultAdapter, statistics);
  EXPECT_LT(loss_of(model), before);
  for (const auto& item : model->named_modules()) {
    const auto* adapter = item.value()->as<LowRankAdapter>();
    if (adapter == nullptr) {
      continue;
    }
    // (ΔW + c·G)·Aᵀ = 0 with c = γ·√(in/r).
    const std::string module = item.key().substr(0, item.key().rfind('.'));
    const at::Tensor gradient = statistics.at(module).gradient;
    const at::Tensor change = adapter->scale() * adapter->lora_B.mm(adapter->lora_A);
    const double c = kGamma * std::sqrt(static_cast<double>(adapter->lora_A.size(1)) / 4.0);
    EXPECT_LT(relative_error(change.mm(adapter->lora_A.t()), -c * gradient.mm(adapter->lora_A.t())), 1e-4) << module;
  }
}

TEST(PrincipalStart, BeginsAsTheFrozenModelAndDetachingGivesItBackBitForBit) {
  const at::Tensor frozen = logits(tiny_llama());
  auto model = with_principal_start();
  EXPECT_LT(relative_error(logits(model), frozen), 1e-5);
  detach_adapters(*model);
  EXPECT_TRUE(at::equal(logits(model), frozen));
}

class Starts : public ::testing::TestWithParam<std::function<DecoderForCausalLM()>> {
 protected:
  /// Trains a model with that start, at most until `stop_after`, and returns it.
  DecoderForCausalLM train(const std::filesystem::path& folder, int64_t stop_after = 1000) const {
    auto model = GetParam()();
    testing::train_in(
        folder, model, TrainerOptions().lr(1e-2).max_steps(6).batches(BatchOptions().batch_size(4).seed(5)),
        stop_after);
    return model;
  }
};

TEST_P(Starts, LearnAndGoOnBitForBit) {
  const TemporaryFolder whole, parts;
  const double before = loss_of(GetParam()());
  auto model = train(whole.path());
  EXPECT_LT(loss_of(model), before);
  auto stopped = train(parts.path(), 3);
  EXPECT_FALSE(at::equal(adapter_values(stopped), adapter_values(model)));
  auto resumed = train(parts.path());
  EXPECT_TRUE(at::equal(adapter_values(resumed), adapter_values(model)));
  EXPECT_TRUE(at::equal(logits(resumed), logits(model)));
}

TEST_P(Starts, AreLoadedAsTheyWereSaved) {
  const TemporaryFolder folder;
  auto model = train(folder.path());
  save_adapter(*model, folder / "adapter");
  auto other = tiny_llama();
  load_adapter(*other, folder / "adapter");
  EXPECT_LT(relative_error(logits(other), logits(model)), 1e-5);
  EXPECT_GT(relative_error(logits(other), logits(tiny_llama())), 1e-2) << "the adapter changes what is computed";
}

INSTANTIATE_TEST_SUITE_P(GradientAndPrincipal, Starts, ::testing::Values(with_gradient_start, with_principal_start));

} // namespace
} // namespace rora
