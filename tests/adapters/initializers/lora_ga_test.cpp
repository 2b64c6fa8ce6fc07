#include "support.h"

#include <rora/adapters/initializers/lora_ga.h>

#include <gmock/gmock.h>

#include <cmath>

namespace rora {
namespace {

using namespace rora::testing;
using ::testing::HasSubstr;

constexpr int64_t kRank = 3;

at::Tensor best_of_rank(const at::Tensor& matrix, int64_t rank) {
  const auto [u, s, v] = at::linalg_svd(matrix, /*full_matrices=*/false);
  return (u.narrow(1, 0, rank) * s.narrow(0, 0, rank)).mm(v.narrow(0, 0, rank));
}

LowRankOptions options_of(LoRAGAForm form = LoRAGAForm::kPaper) {
  return LowRankOptions().rank(kRank).alpha(8).initializer(lora_ga(LoRAGAOptions().form(form)));
}

double c_of(int64_t out) {
  return std::pow(static_cast<double>(out), 0.25) / 4.0;
}

TEST(LoRAGA, TakesTheGradientsBestApproximationOfTwiceTheRank) {
  Projection projection = graded_projection();
  const at::Tensor gradient = graded_gradient();
  const auto adapter = begin(projection, options_of(), {gradient, {}, {}});
  const at::Tensor a = adapter->lora_A.detach(), b = adapter->lora_B.detach();
  const double c = c_of(10);
  EXPECT_LT(relative_error(a.mm(a.t()), c * c * at::eye(kRank)), 1e-5);
  EXPECT_LT(relative_error(b.t().mm(b), c * c * at::eye(kRank)), 1e-5);
  EXPECT_LT(
      relative_error(b.mm(b.t()).mm(gradient) + gradient.mm(a.t()).mm(a), c * c * best_of_rank(gradient, 2 * kRank)),
      1e-4);
}

TEST(LoRAGA, BeginsAsTheFrozenWeightAndItsFirstStepDescendsThatApproximation) {
  Projection projection = graded_projection();
  const at::Tensor gradient = graded_gradient();
  const at::Tensor weight = projection->weight.detach().clone();
  const auto adapter = begin(projection, options_of(), {gradient, {}, {}});
  projection->attach("default", adapter);
  EXPECT_LT(relative_error(projection->weight + change_of(*adapter), weight), 1e-6);
  // One step of gradient descent on A and B, whose gradients are s·Bᵀ·G and s·G·Aᵀ.
  at::NoGradGuard no_grad;
  const double s = adapter->scale(), eta = 1e-4, c = c_of(10);
  const at::Tensor a = adapter->lora_A.clone(), b = adapter->lora_B.clone();
  adapter->lora_A.sub_(eta * s * b.t().mm(gradient));
  adapter->lora_B.sub_(eta * s * gradient.mm(a.t()));
  const at::Tensor moved = projection->weight + change_of(*adapter) - weight;
  EXPECT_LT(relative_error(moved, -eta * s * s * c * c * best_of_rank(gradient, 2 * kRank)), 2e-2);
}

TEST(LoRAGA, HasPeftsFormWithTheSingularValuesInB) {
  Projection projection = graded_projection();
  const at::Tensor gradient = graded_gradient();
  const auto adapter = begin(projection, options_of(LoRAGAForm::kPeft), {gradient, {}, {}});
  const at::Tensor a = adapter->lora_A.detach(), b = adapter->lora_B.detach();
  EXPECT_LT(relative_error(a.mm(a.t()), at::eye(kRank)), 1e-5);
  const at::Tensor s = std::get<1>(at::linalg_svd(gradient, false)).narrow(0, kRank, kRank) * c_of(10);
  EXPECT_LT(relative_error(b.norm(2, {0}), s), 1e-5);
}

TEST(LoRAGA, RefusesARankOfWhichTwiceIsOverTheSizes) {
  Projection projection = graded_projection();
  EXPECT_THAT(
      [&] {
        begin(projection, options_of().rank(6), {graded_gradient(), {}, {}});
      },
      ::testing::ThrowsMessage<c10::ValueError>(HasSubstr("takes 12 singular values, and a weight of 10 x 12 has 10")));
  EXPECT_THROW(lora_ga(LoRAGAOptions().gamma(0.0)), c10::ValueError);
}

} // namespace
} // namespace rora
