#include "modules_support.h"
#include "support/gradcheck.h"

#include <rora/core/initializer.h>
#include <rora/core/rora_linear.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/serialize.h>

#include <memory>
#include <sstream>
#include <string>

// What a start that takes a part of W out of it does to the layer.
namespace rora {
namespace {

using rora::testing::relative_error;
using rora::testing::small;
using rora::testing::trained;

class RewrittenBase : public rora::testing::ModulesTest {};

/// PiSSA's kind of start: A and B are the largest singular directions of W, and W without them takes its place.
class LargestDirections : public Initializer {
 public:
  std::string name() const override {
    return "largest_directions";
  }
  bool rewrites_base() const override {
    return true;
  }
  void initialize(const ProjectionImpl& projection, const WeightStatistics&, InitialFactors factors) const override {
    const int64_t rank = factors.a.size(0);
    const auto [u, s, vh] = at::linalg_svd(projection.original_weight().to(at::kDouble), /*full_matrices=*/false);
    const at::Tensor root = (s.narrow(0, 0, rank) / factors.scale).sqrt();
    factors.b.copy_(u.narrow(1, 0, rank) * root);
    factors.a.copy_(root.unsqueeze(1) * vh.narrow(0, 0, rank));
  }
};

LowRankOptions rewriting(int64_t rank = 2) {
  return LowRankOptions().rank(rank).alpha(3).initializer(std::make_shared<const LargestDirections>());
}

TEST_F(RewrittenBase, ARewrittenBaseBeginsAsTheFrozenLayer) {
  for (const bool dora : {false, true}) {
    Projection projection(at::randn({4, 6}), at::randn({4}));
    const at::Tensor base = projection->weight.clone(), frozen = projection->forward(x);
    projection->attach("start", std::make_shared<LowRankAdapter>(*projection, rewriting().dora(dora)));
    EXPECT_FALSE(at::equal(projection->weight, base));
    EXPECT_TRUE(at::equal(projection->original_weight(), base));
    EXPECT_LT(relative_error(projection->forward(x).detach(), frozen), 1e-5);
    {
      DisableAdapters disabled(*projection);
      EXPECT_TRUE(at::equal(projection->forward(x), frozen));
      EXPECT_TRUE(at::equal(projection->weight, base));
    }
    EXPECT_FALSE(at::equal(projection->weight, base));
    trained(projection);
    const at::Tensor adapted = projection->forward(x).detach();
    EXPECT_GT(relative_error(adapted, frozen), 1e-2);
    projection->merge();
    EXPECT_LT(relative_error(projection->forward(x), adapted), 1e-5);
    projection->unmerge();
    EXPECT_TRUE(at::equal(projection->forward(x).detach(), adapted));
    projection->detach("start");
    EXPECT_TRUE(at::equal(projection->weight, base));
    EXPECT_TRUE(at::equal(projection->forward(x), frozen));
  }
}

TEST_F(RewrittenBase, WhatARewritingAdapterSavesDoesTheSameOnTheUntouchedBase) {
  Projection projection(at::randn({4, 6}));
  const at::Tensor base = projection->weight.clone();
  const auto adapter = std::make_shared<LowRankAdapter>(*projection, rewriting());
  projection->attach("start", adapter);
  trained(projection);
  const auto saved = adapter->saved_tensors();
  ASSERT_EQ(saved.size(), 2u);
  EXPECT_EQ(saved[0].second.sizes(), at::IntArrayRef({4, 6}));
  EXPECT_EQ(saved[1].second.sizes(), at::IntArrayRef({4, 4}));

  Projection untouched(base);
  const auto options = LowRankOptions().rank(4).scaling(Scaling::kStandard).alpha(4 * adapter->scale());
  const auto loaded = std::make_shared<LowRankAdapter>(*untouched, options);
  {
    at::NoGradGuard no_grad;
    loaded->lora_A.copy_(saved[0].second);
    loaded->lora_B.copy_(saved[1].second);
  }
  untouched->attach("start", loaded);
  EXPECT_LT(relative_error(untouched->forward(x).detach(), projection->forward(x).detach()), 1e-5);
}

TEST_F(RewrittenBase, ARewrittenBaseIsSavedAsItWasAndClonedAsItIs) {
  const auto attached = [](const at::Tensor& weight) {
    Projection projection(weight);
    projection->attach("start", std::make_shared<LowRankAdapter>(*projection, rewriting()));
    return projection;
  };
  const at::Tensor base = at::randn({4, 6});
  Projection projection = trained(attached(base.clone()));
  const at::Tensor rewritten = projection->weight.clone();
  std::stringstream stream;
  torch::save(projection, stream);
  EXPECT_TRUE(at::equal(projection->weight, rewritten));

  Projection other = attached(at::randn({4, 6}));
  torch::load(other, stream);
  EXPECT_TRUE(at::equal(other->original_weight(), base));
  EXPECT_TRUE(at::equal(other->forward(x), projection->forward(x)));

  const auto copy = std::dynamic_pointer_cast<ProjectionImpl>(projection->clone());
  EXPECT_TRUE(at::equal(copy->forward(x), projection->forward(x)));
  for (ProjectionImpl* each : {other.get(), copy.get(), projection.get()}) {
    each->detach("start");
    EXPECT_TRUE(at::equal(each->weight, base));
  }
}

TEST_F(RewrittenBase, AnAdapterBeginsFromTheBaseThoughAnotherHasRewrittenIt) {
  const at::Tensor base = at::randn({4, 6});
  Projection alone(base.clone()), both(base.clone());
  both->attach("first", std::make_shared<LowRankAdapter>(*both, rewriting(1)));
  for (Projection projection : {alone, both}) {
    projection->attach("second", std::make_shared<LowRankAdapter>(*projection, rewriting().dora(true)));
  }
  EXPECT_TRUE(at::equal(both->weight, alone->weight));
  EXPECT_TRUE(at::equal(both->forward(x), alone->forward(x)));
  both->activate("first");
  EXPECT_FALSE(at::equal(both->weight, alone->weight));
  both->activate("");
  EXPECT_TRUE(at::equal(both->weight, base));
}

TEST_F(RewrittenBase, ResettingARewritingLayerBeginsAnew) {
  RoRALinear layer = trained(RoRALinear(small().initializer(std::make_shared<const LargestDirections>())));
  layer->reset_parameters();
  const at::Tensor frozen = at::linear(x, layer->original_weight(), layer->bias);
  EXPECT_LT(relative_error(layer->forward(x).detach(), frozen), 1e-5);
  layer->merge();
  EXPECT_THROW(layer->reset_parameters(), c10::ValueError);
}

} // namespace
} // namespace rora
