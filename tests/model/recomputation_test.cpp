#include "support/tiny_llama.h"

#include <rora/adapters/attach.h>

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

namespace rora {
namespace {

struct Outcome {
  std::vector<at::Tensor> gradients;
  double loss = 0.0;
  uint64_t next_random = 0;
};

/// One step's loss and gradients, and what the generator gives after it.
Outcome step(const LowRankOptions& low_rank, Checkpointing checkpointing, at::ScalarType dtype = at::kFloat) {
  DecoderForCausalLM model = testing::tiny_llama();
  attach_adapters(*model, AdapterOptions().low_rank(low_rank));
  {
    at::NoGradGuard no_grad;
    for (at::Tensor parameter : adapter_parameters(*model)) {
      parameter.add_(at::randn_like(parameter), 0.1);
    }
  }
  model->train();
  model->to(dtype);
  model->checkpointing = checkpointing;
  at::manual_seed(7);
  const at::Tensor ids = at::arange(24, at::kLong).view({2, 12});
  const at::Tensor mask = (ids % 12 < 9).to(at::kLong);
  const LossSum loss = model->loss({ids, mask, {}}, ids.masked_fill(mask == 0, -100));
  loss.sum.backward();
  Outcome outcome;
  for (const at::Tensor& parameter : adapter_parameters(*model)) {
    outcome.gradients.push_back(parameter.grad());
  }
  outcome.loss = loss.sum.item<double>();
  outcome.next_random = at::check_generator<at::CPUGeneratorImpl>(at::detail::getDefaultCPUGenerator())->random64();
  return outcome;
}

class ActivationRecomputation : public ::testing::TestWithParam<LowRankOptions> {};

TEST_P(ActivationRecomputation, ChangesNeitherLossNorGradientsNorTheRandomStream) {
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {
    const Outcome kept = step(GetParam(), Checkpointing::kNone, dtype);
    for (const auto checkpointing : {Checkpointing::kSelective, Checkpointing::kFull}) {
      const Outcome recomputed = step(GetParam(), checkpointing, dtype);
      EXPECT_EQ(recomputed.loss, kept.loss);
      EXPECT_EQ(recomputed.next_random, kept.next_random);
      ASSERT_EQ(recomputed.gradients.size(), kept.gradients.size());
      for (size_t i = 0; i < kept.gradients.size(); ++i) {
        EXPECT_GT(kept.gradients[i].abs().max().item<double>(), 0.0);
        EXPECT_TRUE(at::equal(recomputed.gradients[i], kept.gradients[i])) << "parameter " << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Modes, ActivationRecomputation,
    ::testing::Values(
        LowRankOptions().rank(3), LowRankOptions().rank(3).dropout(0.3), LowRankOptions().rank(3).dora(true),
        LowRankOptions().rank(3).dora(true).dropout(0.3)));

TEST(ActivationRecomputationDropout, IsDrawn) {
  EXPECT_NE(
      step(LowRankOptions().rank(3).dropout(0.3), Checkpointing::kFull).loss,
      step(LowRankOptions().rank(3), Checkpointing::kFull).loss);
}

TEST(SelectiveRecomputation, OfAGraphThatIsKeptGivesTheSameGradientsTwice) {
  DecoderForCausalLM model = testing::tiny_llama();
  attach_adapters(*model, AdapterOptions().low_rank(LowRankOptions().rank(3)));
  {
    at::NoGradGuard no_grad;
    for (at::Tensor parameter : adapter_parameters(*model)) {
      parameter.add_(at::randn_like(parameter), 0.1);
    }
  }
  model->train();
  const at::Tensor ids = at::arange(24, at::kLong).view({2, 12});
  std::vector<std::vector<at::Tensor>> found;
  for (const auto checkpointing : {Checkpointing::kNone, Checkpointing::kSelective}) {
    model->checkpointing = checkpointing;
    const LossSum loss = model->loss({ids}, ids);
    for (int pass = 0; pass < 2; ++pass) {
      model->zero_grad();
      loss.sum.backward({}, /*retain_graph=*/true);
      found.emplace_back();
      for (const at::Tensor& parameter : adapter_parameters(*model)) {
        found.back().push_back(parameter.grad().clone());
      }
    }
  }
  for (size_t i = 0; i < found[0].size(); ++i) {
    EXPECT_GT(found[0][i].abs().max().item<double>(), 0.0);
    for (size_t other = 1; other < found.size(); ++other) {
      EXPECT_TRUE(at::equal(found[other][i], found[0][i])) << other << " " << i;
    }
  }
}

} // namespace
} // namespace rora
