#include "support.h"

#include <rora/adapters/initializers/singular_vectors.h>

#include <gmock/gmock.h>

namespace rora {
namespace {

using namespace rora::testing;
using ::testing::HasSubstr;

constexpr int64_t kRank = 3;

LowRankOptions options_of(std::shared_ptr<const Initializer> initializer) {
  return LowRankOptions().rank(kRank).alpha(8).initializer(std::move(initializer));
}

/// The factors, and what stands in W's place.
struct Start {
  at::Tensor weight, residual, a, b, change;
  double scale;
};

Start start_of(std::shared_ptr<const Initializer> initializer, Projection projection = graded_projection()) {
  Start start;
  start.weight = projection->weight.detach().clone();
  const auto adapter = begin(projection, options_of(std::move(initializer)));
  projection->attach("default", adapter);
  start.residual = projection->weight.detach();
  start.a = adapter->lora_A.detach();
  start.b = adapter->lora_B.detach();
  start.scale = adapter->scale();
  start.change = change_of(*adapter);
  return start;
}

at::Tensor singular_values(const at::Tensor& matrix) {
  return std::get<1>(at::linalg_svd(matrix, /*full_matrices=*/false));
}

TEST(PiSSA, TakesTheFirstSingularValuesAndLeavesTheRest) {
  const Start start = start_of(pissa());
  const at::Tensor s = singular_values(start.weight);
  EXPECT_LT(relative_error(start.residual + start.change, start.weight), 1e-6);
  EXPECT_NEAR(singular_values(start.residual)[0].item<double>(), s[kRank].item<double>(), 1e-5);
  const at::Tensor balanced = at::diag(s.narrow(0, 0, kRank) / start.scale);
  EXPECT_LT(relative_error(start.a.mm(start.a.t()), balanced), 1e-5);
  EXPECT_LT(relative_error(start.b.t().mm(start.b), balanced), 1e-5);
}

TEST(PiSSA, IsTheSameByARandomisedDecompositionAndAtEveryCall) {
  const auto large = [] { return graded_projection(40, 48); };
  const Start exact = start_of(pissa(), large());
  const Start randomised = start_of(pissa(8), large());
  EXPECT_LT(relative_error(randomised.change, exact.change), 1e-4);
  at::rand({5}); // whatever the default generator stands at
  EXPECT_TRUE(at::equal(start_of(pissa(8), large()).a, randomised.a));
  EXPECT_FALSE(at::equal(randomised.a, exact.a)) << "or nothing was randomised";
}

TEST(MiLoRA, TakesTheLastSingularValuesAndLeavesTheRest) {
  const Start start = start_of(milora());
  const at::Tensor s = singular_values(start.weight);
  EXPECT_LT(relative_error(start.residual + start.change, start.weight), 1e-6);
  const double least = s.narrow(0, s.size(0) - kRank, kRank).square().sum().item<double>();
  EXPECT_NEAR(start.change.square().sum().item<double>() / least, 1.0, 1e-4);
  EXPECT_LT(start.change.t().mm(start.residual).abs().max().item<double>(), 1e-6);
}

TEST(SingularVectors, RefuseARankOverTheSizes) {
  EXPECT_THAT(
      [] { begin(graded_projection(), options_of(milora()).rank(11)); },
      ::testing::ThrowsMessage<c10::ValueError>(
          HasSubstr("milora takes 11 singular values, and a weight of 10 x 12 has 10")));
  EXPECT_THROW(pissa(-1), c10::ValueError);
}

} // namespace
} // namespace rora
