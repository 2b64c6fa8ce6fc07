#include "kernels/support.h"

#include <kernels/cross_entropy.h>
#include <ops/cpu/kernels.h>

#include <cmath>
#include <limits>

namespace rora::testing {
namespace {

using kernels::CrossEntropyParameters;

class CrossEntropyKernel : public ::testing::TestWithParam<at::ScalarType> {};

constexpr float kInfinity = std::numeric_limits<float>::infinity();

CrossEntropyParameters parameters_of(
    const at::Tensor& logits, const at::Tensor& targets, const at::Tensor& losses, bool gradient) {
  CrossEntropyParameters p;
  p.type = kernel_type(logits);
  p.vocab = logits.size(1);
  p.logits = rows_of(logits);
  p.targets = targets.const_data_ptr<int64_t>();
  p.losses = losses.data_ptr();
  p.gradient = gradient;
  return p;
}

void run(const CrossEntropyParameters& p, const at::Tensor& logits, const at::Tensor& losses) {
  if (p.type == kernels::Type::kFloat) {
    run_kernel(kernels::cuda::CrossEntropy<float>(p, logits.size(0)), {logits, losses});
  } else {
    run_kernel(kernels::cuda::CrossEntropy<kernels::cuda::BFloat16>(p, logits.size(0)), {logits, losses});
  }
}

TEST_P(CrossEntropyKernel, IsTheCpusForAnyVocabulary) {
  const auto dtype = GetParam();
  at::manual_seed(4);
  for (const int64_t vocab : {1, 7, 256, 20003}) { // some of them no whole packets
    for (const int64_t apart : {0, 7}) {
      const int64_t rows = 3, stride = (vocab + 7) / 8 * 8 + apart;
      const at::Tensor storage = at::randn({rows, stride}).mul_(4).to(dtype);
      const at::Tensor targets = at::randint(vocab, {rows}, at::kLong);
      targets[0] = vocab - 1;
      targets[1] = CrossEntropyParameters::kIgnored;
      for (const bool gradient : {false, true}) {
        const at::Tensor expected = storage.clone(), found = storage.clone();
        const at::Tensor logits = found.narrow(1, 0, vocab), expected_logits = expected.narrow(1, 0, vocab);
        const at::Tensor losses = at::zeros({rows}), expected_losses = at::zeros({rows});
        kernels::kernels().cross_entropy(parameters_of(expected_logits, targets, expected_losses, gradient), 0, rows);
        run(parameters_of(logits, targets, losses, gradient), logits, losses);
        EXPECT_TRUE(at::allclose(losses, expected_losses, 1e-5, 1e-5)) << vocab;
        EXPECT_LT((logits - expected_logits).abs().max().item<double>(), gradient ? tolerance(dtype) : 1e-30) << vocab;
        EXPECT_TRUE(at::equal(found.narrow(1, vocab, stride - vocab), storage.narrow(1, vocab, stride - vocab)));
      }
    }
  }
}

TEST_P(CrossEntropyKernel, IsAtensWhereLogitsAreFarApart) {
  at::Tensor logits = at::full({4, 3000}, -kInfinity).to(GetParam());
  logits.narrow(1, 2990, 3).fill_(2);
  logits[1].fill_(-3e4);
  logits[1][5] = 3e4;
  logits[2].copy_(at::arange(3000, at::kFloat).mul_(0.25));
  logits[3].copy_(at::arange(3000, at::kFloat).mul_(-0.25));
  const at::Tensor targets = at::tensor({2991, 5, 2999, 0}, at::kLong), losses = at::zeros({4});
  const at::Tensor wide = logits.to(at::kDouble);
  const at::Tensor expected = at::cross_entropy_loss(wide, targets, {}, at::Reduction::None);
  const at::Tensor expected_gradient = wide.softmax(1) - at::one_hot(targets, 3000);
  run(parameters_of(logits, targets, losses, true), logits, losses);
  EXPECT_TRUE(at::allclose(losses.to(at::kDouble), expected, 1e-5, 1e-5)) << losses << expected;
  EXPECT_LT((logits.to(at::kDouble) - expected_gradient).abs().max().item<double>(), tolerance(GetParam()));
}

TEST_P(CrossEntropyKernel, DoesNotReadRowsThatAreIgnored) {
  for (const int64_t vocab : {1, 9, 1600}) {
    for (const bool gradient : {false, true}) {
      const at::Tensor logits = at::full({2, vocab}, std::nan("")).to(GetParam()), losses = at::full({2}, 3.0);
      const at::Tensor targets = at::full({2}, CrossEntropyParameters::kIgnored, at::kLong);
      run(parameters_of(logits, targets, losses, gradient), logits, losses);
      EXPECT_TRUE(at::equal(losses, at::zeros({2})));
      EXPECT_TRUE(gradient ? at::equal(logits, at::zeros_like(logits)) : logits.isnan().all().item<bool>());
    }
  }
}

TEST_P(CrossEntropyKernel, GivesNoLossForATargetThatIsNone) {
  for (const int64_t target : {-1, 100}) {
    const at::Tensor logits = at::randn({1, 100}).to(GetParam()), losses = at::zeros({1});
    const at::Tensor targets = at::full({1}, target, at::kLong);
    run(parameters_of(logits, targets, losses, false), logits, losses);
    EXPECT_TRUE(std::isnan(losses.item<float>()));
  }
}

INSTANTIATE_TEST_SUITE_P(, CrossEntropyKernel, ::testing::Values(at::kFloat, at::kBFloat16), [](const auto& info) {
  return c10::toString(info.param);
});

} // namespace
} // namespace rora::testing
