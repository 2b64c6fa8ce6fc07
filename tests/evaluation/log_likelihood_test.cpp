#include <rora/evaluation/log_likelihood.h>

#include "support/tiny_llama.h"

#include <gtest/gtest.h>

#include <stdexcept>

namespace rora {
namespace {

using Ids = std::vector<int64_t>;

/// From the logits of one whole sequence.
double log_likelihood(CausalLM model, const Ids& prompt, const Ids& continuation) {
  at::NoGradGuard no_grad;
  Ids whole = prompt;
  whole.insert(whole.end(), continuation.begin(), continuation.end());
  const at::Tensor log_probabilities =
      model->forward({at::tensor(whole, at::kLong).unsqueeze(0), {}, {}})[0].to(at::kDouble).log_softmax(-1);
  double sum = 0.0;
  for (size_t t = prompt.size(); t < whole.size(); ++t) {
    sum += log_probabilities[static_cast<int64_t>(t) - 1][whole[t]].item<double>();
  }
  return sum;
}

TEST(LogLikelihoods, EqualThoseOfEachSequenceAlone) {
  auto model = testing::tiny_llama();
  const std::vector<PromptContinuations> prompts{
      {{1, 2, 3}, {{4, 5, 6}, {4, 5, 7}, {4, 5, 8}}}, // apart in the last token
      {{9, 8, 7, 6, 5}, {{1, 2, 3, 4, 5}, {1, 6}, {1, 2}}}, // endings of unequal length
      {{10}, {{11}, {12, 13, 14}}}, // nothing in common
      {{20, 21}, {{22, 23}, {22, 23, 24, 25}}}, // one the beginning of another
      {{3, 1}, {}},
      {{3, 2}, {{7, 7, 7, 7}}},
      {{4, 2}, {{7, 8}, {7, 8}}}, // the same twice
  };
  for (const int64_t batch_size : {1, 2, 100}) {
    const auto found = log_likelihoods(model, prompts, batch_size);
    ASSERT_EQ(found.size(), prompts.size());
    for (size_t i = 0; i < prompts.size(); ++i) {
      ASSERT_EQ(found[i].size(), prompts[i].continuations.size());
      for (size_t c = 0; c < found[i].size(); ++c) {
        EXPECT_NEAR(found[i][c], log_likelihood(model, prompts[i].prompt, prompts[i].continuations[c]), 2e-5)
            << "batch size " << batch_size << ", prompt " << i << ", continuation " << c;
      }
    }
  }
}

TEST(LogLikelihoods, RefuseNumbersThatAreNotFinite) {
  auto model = testing::tiny_llama();
  at::NoGradGuard no_grad;
  model->lm_head->weight.fill_(3e38); // each is finite, their products are not
  EXPECT_THROW(log_likelihoods(model, {{{1}, {{2}, {3}}}}), std::runtime_error);
}

TEST(LogLikelihoods, RefuseWhatHasNone) {
  auto model = testing::tiny_llama();
  EXPECT_THROW(log_likelihoods(model, {{{}, {{1}}}}), c10::ValueError);
  EXPECT_THROW(log_likelihoods(model, {{{1}, {{2}, {}}}}), c10::ValueError);
  EXPECT_THROW(log_likelihoods(model, {{{1}, {{32}}}}), c10::ValueError);
  EXPECT_THROW(log_likelihoods(model, {{{-1}, {{2}}}}), c10::ValueError);
  EXPECT_THROW(log_likelihoods(model, {{{1}, {{2}}}}, 0), c10::ValueError);
  EXPECT_TRUE(log_likelihoods(model, {}).empty());
}

} // namespace
} // namespace rora
