#include "support.h"

#include <rora/adapters/initializers/olora.h>

namespace rora {
namespace {

using namespace rora::testing;

TEST(OLoRA, TakesTheFirstColumnsOfAnOrthogonalFactorisation) {
  Projection projection = graded_projection();
  const at::Tensor weight = projection->weight.detach().clone();
  constexpr int64_t kRank = 3;
  const auto adapter = begin(
      projection,
      LowRankOptions().rank(kRank).alpha(kRank).scaling(Scaling::kStandard).initializer(olora())); // s = 1
  projection->attach("default", adapter);
  const at::Tensor a = adapter->lora_A.detach(), b = adapter->lora_B.detach();
  EXPECT_LT(relative_error(b.t().mm(b), at::eye(kRank)), 1e-6);
  EXPECT_LT(a.narrow(1, 0, kRank).tril(-1).abs().max().item<double>(), 1e-6) << "A is an upper trapezium";
  EXPECT_LT(relative_error(projection->weight + change_of(*adapter), weight), 1e-6);
  EXPECT_LT(projection->weight.detach().narrow(1, 0, kRank).abs().max().item<double>(), 1e-6);
}

TEST(OLoRA, IsThatOfTheWholeWeightsFactorisation) {
  Projection projection = graded_projection();
  const auto adapter = begin(projection, LowRankOptions().rank(4).initializer(olora()));
  const auto [q, r] = at::linalg_qr(projection->weight);
  EXPECT_LT(relative_error(adapter->lora_B.detach(), q.narrow(1, 0, 4)), 1e-5);
  EXPECT_LT(relative_error(adapter->lora_A.detach(), r.narrow(0, 0, 4)), 1e-5);
  EXPECT_THROW(begin(projection, LowRankOptions().rank(11).initializer(olora())), c10::ValueError);
}

} // namespace
} // namespace rora
