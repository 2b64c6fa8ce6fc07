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
  model->checkpointing = Checkpointing::kSelective;
  model->train();
  const at::Tensor ids = at::arange(24, at::kLong).view({2, 12});
  const LossSum loss = model->loss({ids}, ids);
  std::vector<at::Tensor> first;
  for (const bool again : {false, true}) {
    model->zero_grad();
    loss.sum.backward({}, /*retain_graph=*/true);
    for (size_t i = 0; const at::Tensor& parameter : adapter_parameters(*model)) {
      if (again) {
        EXPECT_TRUE(at::equal(parameter.grad(), first[i++]));
      } else {
        first.push_back(parameter.grad().clone());
      }
    }
  }
}

TEST(SelectiveRecomputation, IsOfTrainingAlone) {
  DecoderForCausalLM model = testing::tiny_llama();
  model->checkpointing = Checkpointing::kSelective;
  const at::Tensor ids = at::arange(24, at::kLong).view({2, 12});
  at::Tensor embeds = model->embed(ids).detach().set_requires_grad(true);
  model->eval();
  const at::Tensor sum = model->forward({ids, {}, {}, embeds}).sum();
  sum.backward();
  const at::Tensor expected = embeds.grad().clone();
  embeds.mutable_grad().zero_();
  model->train(); // no adapter keeps what would be formed again
  model->forward({ids, {}, {}, embeds}).sum().backward();
  EXPECT_GT(expected.abs().max().item<double>(), 0.0);
  EXPECT_TRUE(at::equal(embeds.grad(), expected));
}

} // namespace
} // namespace rora
