#include "support.h"

#include <rora/adapters/initializers/lora_one.h>

#include <gmock/gmock.h>

namespace rora {
namespace {

using namespace rora::testing;
using ::testing::HasSubstr;

constexpr double kGamma = 128.0;

TEST(LoRAOne, IsTheBestStepOfItsRankDownTheGradientAndOfASizeOfItsOwn) {
  Projection projection = graded_projection();
  const at::Tensor gradient = graded_gradient();
  const at::Tensor weight = projection->weight.detach().clone();
  for (const double size : {1.0, 1e3}) {
    const auto adapter =
        begin(projection, LowRankOptions().rank(3).alpha(8).initializer(lora_one(kGamma)), {size * gradient, {}, {}});
    const auto [u, s, v] = at::linalg_svd(gradient, /*full_matrices=*/false);
    const at::Tensor best = (u.narrow(1, 0, 3) * s.narrow(0, 0, 3)).mm(v.narrow(0, 0, 3));
    const double factor = -adapter->scale() / (kGamma * s[0].item<double>());
    EXPECT_LT(relative_error(change_of(*adapter), factor * best), 1e-4);
    EXPECT_NEAR(at::linalg_matrix_norm(change_of(*adapter), 2).item<double>(), adapter->scale() / kGamma, 1e-6);
  }
  EXPECT_TRUE(at::equal(projection->weight, weight)) << "the base stays";
}

TEST(LoRAOne, LowersTheLossOfTheCapturedBatchesWhichTheOppositeSignRaises) {
  auto model = tiny_llama();
  const double before = loss_of_batches(model);
  const auto options = beginning_with(lora_one(kGamma));
  attach_adapters(*model, options, kDefaultAdapter, captured(model, options));
  EXPECT_LT(loss_of_batches(model), before);
  at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : named_adapter_parameters(*model)) {
    if (name.ends_with("lora_B")) {
      at::Tensor(tensor).neg_();
    }
  }
  EXPECT_GT(loss_of_batches(model), before);
}

TEST(LoRAOne, RefusesWhatGivesNoDirection) {
  Projection projection = graded_projection();
  const auto options = LowRankOptions().rank(3).initializer(lora_one());
  EXPECT_THAT(
      [&] {
        begin(projection, options, {at::zeros({10, 12}), {}, {}});
      },
      ::testing::ThrowsMessage<c10::ValueError>(HasSubstr("the gradient is 0")));
  EXPECT_THROW(lora_one(0.0), c10::ValueError);
}

} // namespace
} // namespace rora
