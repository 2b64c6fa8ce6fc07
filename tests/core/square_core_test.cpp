#include "support/gradcheck.h"

#include <rora/core/low_rank_adapter.h>
#include <rora/core/projection.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

namespace rora {
namespace {

using testing::relative_error;

/// A and B of random numbers, and R the identity.
class RandomFactors final : public Initializer {
 public:
  std::string name() const override {
    return "random";
  }
  void initialize(const ProjectionImpl& /*projection*/, const WeightStatistics& /*statistics*/, InitialFactors factors)
      const override {
    at::NoGradGuard no_grad;
    factors.a.normal_();
    factors.b.normal_();
  }
};

/// A projection of 5 × 7 in fp64 with W + s·B·R·A, of rank 3 and s = 2.
struct WithCore {
  explicit WithCore(bool dora = false) {
    at::manual_seed(3);
    projection->reset_parameters();
    projection->to(at::kDouble);
    adapter = std::make_shared<LowRankAdapter>(
        *projection,
        LowRankOptions()
            .rank(3)
            .alpha(6)
            .scaling(Scaling::kStandard)
            .dora(dora)
            .core(true)
            .initializer(std::make_shared<RandomFactors>()));
    projection->attach("default", adapter);
  }

  /// W + s·B·R·A.
  at::Tensor weight() const {
    return projection->weight + 2.0 * adapter->lora_B.mm(adapter->lora_R).mm(adapter->lora_A);
  }

  Projection projection{5, 7, /*bias=*/true};
  std::shared_ptr<LowRankAdapter> adapter;
  at::Tensor x = at::randn({2, 3, 5}, at::kDouble);
};

TEST(SquareCore, BeginsAsTheIdentityAndIsAllThatIsTrained) {
  const WithCore with;
  EXPECT_TRUE(at::equal(with.adapter->lora_R, at::eye(3, at::kDouble)));
  ASSERT_EQ(with.adapter->parameters().size(), 1u);
  EXPECT_TRUE(with.adapter->parameters()[0].is_same(with.adapter->lora_R));
  EXPECT_TRUE(with.adapter->pairs().empty());
  EXPECT_EQ(WithCore(/*dora=*/true).adapter->parameters().size(), 2u);
}

TEST(SquareCore, HasItsFormulaAndItsGradients) {
  WithCore with;
  const auto run = [&](const std::vector<at::Tensor>& inputs) -> std::vector<at::Tensor> {
    with.adapter->lora_R = inputs[1];
    return {with.projection->forward(inputs[0])};
  };
  const std::vector<at::Tensor> inputs{with.x, at::randn({3, 3}, at::kDouble)};
  const at::Tensor y = run(inputs)[0];
  EXPECT_LT(relative_error(y, at::linear(with.x, with.weight(), with.projection->bias)), 1e-13);
  EXPECT_LT(testing::gradient_error(run, inputs), 1e-7);
}

TEST(SquareCore, WithDoRATheNormFollowsR) {
  WithCore with(/*dora=*/true);
  for (int64_t round = 0; round < 2; ++round) {
    at::NoGradGuard no_grad;
    with.adapter->lora_R.normal_();
    const at::Tensor weight = with.weight();
    const at::Tensor directed = weight * (with.adapter->lora_magnitude_vector / weight.norm(2, /*dim=*/1)).unsqueeze(1);
    EXPECT_LT(
        relative_error(with.projection->forward(with.x), at::linear(with.x, directed, with.projection->bias)), 1e-12);
    EXPECT_LT(relative_error(with.adapter->merged_weight(*with.projection), directed), 1e-12);
  }
}

TEST(SquareCore, MergesClonesAndSavesAsTheLowRankAdapterOfRTimesA) {
  WithCore with;
  {
    at::NoGradGuard no_grad;
    with.adapter->lora_R.normal_();
  }
  EXPECT_LT(relative_error(with.adapter->merged_weight(*with.projection), with.weight()), 1e-13);
  const auto saved = with.adapter->saved_tensors();
  ASSERT_EQ(saved.size(), 2u);
  EXPECT_EQ(saved[0].first, "lora_A");
  EXPECT_LT(relative_error(saved[0].second, with.adapter->lora_R.mm(with.adapter->lora_A)), 1e-15);
  EXPECT_TRUE(at::equal(saved[1].second, with.adapter->lora_B));
  const auto copy = std::dynamic_pointer_cast<ProjectionImpl>(with.projection->clone());
  EXPECT_TRUE(at::equal(copy->forward(with.x), with.projection->forward(with.x)));
}

TEST(SquareCore, NeedsAnInitializer) {
  Projection projection(5, 7);
  projection->reset_parameters();
  EXPECT_THROW(LowRankAdapter(*projection, LowRankOptions().rank(3).core(true)), c10::ValueError);
}

} // namespace
} // namespace rora
