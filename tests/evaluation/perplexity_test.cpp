#include <rora/evaluation/perplexity.h>

#include "support/tiny_llama.h"

#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>

namespace rora {
namespace {

std::vector<Example> examples() {
  return {
      {{1, 2, 3, 4}, {kIgnoreIndex, kIgnoreIndex, 3, 4}},
      {{5, 6, 7, 8, 9, 10, 11}, {5, 6, 7, 8, 9, 10, 11}}, // nothing predicts the first
      {{12, 13}, {kIgnoreIndex, kIgnoreIndex}},
      {{14, 15, 16}, {kIgnoreIndex, 15, kIgnoreIndex}},
      {{17}, {17}},
  };
}

/// −ln p summed over the labelled tokens, from the logits of one example at a time.
double loss_sum(CausalLM model, const std::vector<Example>& examples) {
  at::NoGradGuard no_grad;
  double sum = 0.0;
  for (const Example& example : examples) {
    const at::Tensor ids = at::tensor(example.input_ids, at::kLong).unsqueeze(0);
    const at::Tensor log_probabilities = model->forward({ids, {}, {}})[0].to(at::kDouble).log_softmax(-1);
    for (size_t t = 1; t < example.labels.size(); ++t) {
      if (example.labels[t] != kIgnoreIndex) {
        sum -= log_probabilities[static_cast<int64_t>(t) - 1][example.labels[t]].item<double>();
      }
    }
  }
  return sum;
}

TEST(Perplexities, AreOfTheLabelledTokensWhateverTheBatch) {
  auto model = testing::tiny_llama();
  const double expected = loss_sum(model, examples()) / 9.0;
  for (const int64_t batch_size : {1, 2, 3, 100}) {
    int64_t done = 0;
    const Perplexity found = evaluate_perplexity(model, examples(), batch_size, [&](int64_t count) {
      EXPECT_GT(count, done);
      done = count;
    });
    EXPECT_EQ(found.tokens, 9);
    EXPECT_NEAR(found.loss, expected, 1e-6 * expected);
    EXPECT_DOUBLE_EQ(found.perplexity(), std::exp(found.loss));
    EXPECT_EQ(done, 5);
  }
}

TEST(Perplexities, RefuseExamplesWithoutALabel) {
  auto model = testing::tiny_llama();
  EXPECT_THROW(evaluate_perplexity(model, {{{1, 2}, {1, kIgnoreIndex}}}), c10::ValueError);
  EXPECT_THROW(evaluate_perplexity(model, {}), c10::ValueError);
  EXPECT_THROW(evaluate_perplexity(model, examples(), 0), c10::ValueError);
}

TEST(Perplexities, RefuseALossThatIsNotFinite) {
  auto model = testing::tiny_llama();
  at::NoGradGuard no_grad;
  model->lm_head->weight.fill_(3e38); // each is finite, their products are not
  EXPECT_THROW(evaluate_perplexity(model, examples()), std::runtime_error);
}

TEST(Perplexities, LeaveTheModelInItsModeWithoutGradients) {
  auto model = testing::tiny_llama();
  model->train();
  evaluate_perplexity(model, examples());
  EXPECT_TRUE(model->is_training());
  EXPECT_TRUE(at::GradMode::is_enabled());
}

TEST(Perplexities, LeaveTheModelInItsModeWhenTheyThrow) {
  auto model = testing::tiny_llama();
  model->train();
  EXPECT_ANY_THROW(evaluate_perplexity(model, {{{1, 2}, {1, 2000}}})); // no such label
  EXPECT_TRUE(model->is_training());
}

} // namespace
} // namespace rora
