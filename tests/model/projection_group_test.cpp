#include <rora/core/low_rank_linear.h>
#include <rora/core/rora_linear.h>
#include <rora/model/projection_group.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <vector>

namespace rora {
namespace {

constexpr int64_t kIn = 12;

struct Layer {
  explicit Layer(bool dora)
      : first(RoRALinearOptions(kIn, 10).rank(4).alpha(8).dora(dora)),
        second(RoRALinearOptions(kIn, 6).rank(4).alpha(8).dora(dora)),
        norm(kIn, 1e-5) {
    at::NoGradGuard no_grad;
    norm->weight.uniform_(0.5, 1.5);
    norm->weight.set_requires_grad(true);
    first->low_rank()->lora_B.normal_(0.0, 0.3);
    second->low_rank()->lora_B.normal_(0.0, 0.3);
  }
  RoRALinear first, second;
  RMSNorm norm;
};

/// The projections' outputs and the stream's states, then the gradients of all that trains.
std::vector<at::Tensor> everything(Layer& layer, bool with_shrunk, bool with_change, bool forms_again = false) {
  at::manual_seed(7);
  const at::Tensor states = at::randn({2, 3, kIn}).set_requires_grad(true);
  const at::Tensor change = at::randn({2, 3, kIn}).set_requires_grad(true);
  ResidualStream stream{states, {with_change ? change : at::Tensor()}};
  std::vector<at::Tensor> found;
  if (with_shrunk) {
    auto terms = detail::terms_together({layer.first.get(), layer.second.get()});
    EXPECT_TRUE(terms && ops::detail::takes_shrunk(*terms));
    found = detail::project_norm_with_shrunk(*layer.norm, stream, std::move(*terms), forms_again).outputs;
  } else {
    found = project_norm(*layer.norm, stream, {layer.first.get(), layer.second.get()}, forms_again).outputs;
  }
  EXPECT_FALSE(stream.change.values.defined());
  found.push_back(stream.states);
  at::Tensor loss = at::zeros({});
  for (const at::Tensor& each : found) {
    loss = loss + each.square().sum();
  }
  layer.norm->zero_grad();
  layer.first->zero_grad();
  layer.second->zero_grad();
  loss.backward();
  found.push_back(states.grad());
  found.push_back(layer.norm->weight.grad());
  if (with_change) {
    found.push_back(change.grad());
  }
  for (RoRALinearImpl* each : {layer.first.get(), layer.second.get()}) {
    for (const at::Tensor& parameter : each->parameters()) {
      if (parameter.requires_grad()) {
        found.push_back(parameter.grad());
      }
    }
  }
  return found;
}

/// What a GPU runs, with the reference of its kernel.
TEST(ProjectNorm, IsTheSameWithWhatTheNormHasShrunkAndWithItsResultFormedAgain) {
  for (const bool dora : {false, true}) {
    Layer layer(dora);
    for (const bool with_change : {false, true}) {
      const auto expected = everything(layer, false, with_change);
      for (const auto& found :
           {everything(layer, true, with_change), everything(layer, true, with_change, /*forms_again=*/true),
            everything(layer, false, with_change, /*forms_again=*/true)}) {
        ASSERT_EQ(found.size(), expected.size());
        ASSERT_GE(found.size(), 8u);
        for (size_t i = 0; i < found.size(); ++i) {
          EXPECT_TRUE(at::equal(found[i], expected[i])) << i << (dora ? ", DoRA" : "");
        }
      }
    }
  }
}

} // namespace
} // namespace rora
