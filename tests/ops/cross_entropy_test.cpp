#include "support/gradcheck.h"

#include <rora/ops/cross_entropy.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <c10/util/Exception.h>

namespace rora::ops {
namespace {

using rora::testing::gradient_error;
using rora::testing::relative_error;

class TokenCrossEntropyTest : public ::testing::Test {
 protected:
  TokenCrossEntropyTest() {
    at::manual_seed(6);
    hidden = at::randn({7, 5}, at::kDouble);
    weight = at::randn({11, 5}, at::kDouble);
    targets = at::randint(0, 11, {7}, at::kLong);
  }
  at::Tensor hidden, weight, targets;
};

TEST_F(TokenCrossEntropyTest, IsTheSumThatAtenGivesWhateverTheChunk) {
  const at::Tensor expected = at::cross_entropy_loss(hidden.mm(weight.t()), targets, {}, at::Reduction::Sum);
  for (const int64_t chunk : {0, 1, 3, 7, 100}) {
    EXPECT_LT(relative_error(token_cross_entropy(hidden, weight, targets, chunk), expected), 1e-13) << chunk;
  }
}

TEST_F(TokenCrossEntropyTest, PassesGradcheckInDouble) {
  const auto function = [this](const std::vector<at::Tensor>& in) -> std::vector<at::Tensor> {
    return {token_cross_entropy(in[0], in[1], targets, 3)};
  };
  EXPECT_LT(gradient_error(function, {hidden, weight}), 1e-7);
}

TEST_F(TokenCrossEntropyTest, IgnoredTargetsCountForNothing) {
  targets[0] = kIgnoreIndex;
  targets[4] = kIgnoreIndex;
  const at::Tensor counted = at::tensor({1, 2, 3, 5, 6}, at::kLong);
  for (const int64_t chunk : {0, 1, 3}) {
    std::vector<at::Tensor> results;
    for (const bool without : {false, true}) {
      const at::Tensor x = hidden.clone().set_requires_grad(true), w = weight.clone().set_requires_grad(true);
      const at::Tensor loss = without
          ? token_cross_entropy(x.index_select(0, counted), w, targets.index_select(0, counted), chunk)
          : token_cross_entropy(x, w, targets, chunk);
      loss.backward();
      results.insert(results.end(), {loss.detach(), x.grad(), w.grad()});
    }
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_LT(relative_error(results[i], results[i + 3]), 1e-14) << chunk << ", " << i;
    }
    EXPECT_EQ(results[1].index_select(0, at::tensor({0, 4}, at::kLong)).abs().max().item<double>(), 0.0);
  }
}

TEST_F(TokenCrossEntropyTest, PassesGradcheckWhereTargetsAreIgnored) {
  targets[3] = kIgnoreIndex;
  const auto function = [this](const std::vector<at::Tensor>& in) -> std::vector<at::Tensor> {
    return {token_cross_entropy(in[0], in[1], targets, 3)};
  };
  EXPECT_LT(gradient_error(function, {hidden, weight}), 1e-7);
}

TEST_F(TokenCrossEntropyTest, NoTokensGiveZero) {
  hidden.set_requires_grad(true);
  const at::Tensor loss = token_cross_entropy(hidden.slice(0, 0, 0), weight, targets.slice(0, 0, 0));
  EXPECT_EQ(loss.item<double>(), 0.0);
  loss.backward();
  EXPECT_EQ(hidden.grad().abs().sum().item<double>(), 0.0);
}

TEST_F(TokenCrossEntropyTest, RefusesTargetsOutsideTheVocabulary) {
  targets[2] = 11;
  EXPECT_THROW(token_cross_entropy(hidden, weight, targets), c10::IndexError);
  targets[2] = -1;
  targets[3] = kIgnoreIndex;
  EXPECT_THROW(token_cross_entropy(hidden, weight, targets), c10::IndexError);
}

} // namespace
} // namespace rora::ops
