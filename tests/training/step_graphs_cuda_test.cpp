// What only a GPU can show.

#include "step_graphs_support.h"
#include "support/no_waiting.h"

#include <evaluation/batch_input.h>

#include <rora/model/decoder.h>
#include <rora/training/adamw.h>

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <utility>
#include <vector>

namespace rora {
namespace {

using rora::testing::batch_of;
using rora::testing::Form;
using rora::testing::forms;
using rora::testing::losses_of_run;
using rora::testing::make;
using rora::testing::NoWaiting;
using rora::testing::Repeats;

/// The same bits in every run, of LibTorch's own operators too, while it lives.
class Deterministic {
 public:
  Deterministic() {
    ::setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/1); // else LibTorch refuses its own products
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
    at::globalContext().setDeterministicFillUninitializedMemory(false);
  }
  ~Deterministic() {
    at::globalContext().setDeterministicAlgorithms(false, /*warn_only=*/false);
  }
  Deterministic(const Deterministic&) = delete;
  Deterministic& operator=(const Deterministic&) = delete;
};

class CapturedStepGraphs : public ::testing::TestWithParam<Form> {};

TEST_P(CapturedStepGraphs, GiveTheBitsOfTheSameWorkRepeated) {
  if (!at::hasCUDA()) {
    GTEST_SKIP() << "there is no CUDA device";
  }
  const Deterministic deterministic;
  const auto steps = [&](bool captured) {
    DecoderForCausalLM model = make(GetParam(), at::kCUDA);
    ParameterTable parameters(*model);
    AdamW optimizer(parameters);
    std::unique_ptr<GraphRunner> runner;
    if (captured) {
      runner = cuda_graph_runner(parameters.values().device());
    } else {
      runner = std::make_unique<Repeats>();
    }
    StepGraphs graphs(model, parameters, std::move(runner));
    std::vector<double> figures;
    for (uint64_t step = 0; step < 10; ++step) {
      parameters.zero_grad();
      std::vector<at::Tensor> sums;
      // Of two shapes, the second not yet captured where the first is; an evaluation in between reads what is trained.
      for (const int64_t seq : {40, 70}) {
        const Batch batch = batch_of(GetParam(), step, 3, seq);
        if (seq == 40 || step > 1) {
          sums.push_back(graphs.add_gradient(batch, 2 * batch.labelled_tokens));
        }
      }
      {
        at::NoGradGuard no_grad;
        sums.push_back(detail::batch_loss(model, batch_of(GetParam(), 77)).sum.to(at::kDouble));
      }
      optimizer.step(1e-2);
      for (const at::Tensor& each : sums) {
        figures.push_back(each.item<double>());
      }
    }
    EXPECT_GT(graphs.captures(), 0);
    const at::Tensor values = parameters.values().cpu();
    return std::make_pair(figures, values);
  };
  const auto repeated = steps(false), captured = steps(true);
  EXPECT_EQ(captured.first, repeated.first);
  EXPECT_TRUE(at::equal(captured.second, repeated.second));
}

TEST_P(CapturedStepGraphs, OnceCapturedWaitForNoGpu) {
  if (!at::hasCUDA()) {
    GTEST_SKIP() << "there is no CUDA device";
  }
  DecoderForCausalLM model = make(GetParam(), at::kCUDA);
  ParameterTable parameters(*model);
  StepGraphs graphs(model, parameters, cuda_graph_runner(parameters.values().device()));
  const Batch batch = batch_of(GetParam(), 1);
  for (int step = 0; step <= StepGraphs::kWarmUps; ++step) {
    graphs.add_gradient(batch, batch.labelled_tokens);
  }
  ASSERT_EQ(graphs.captures(), 1);
  const NoWaiting no_waiting;
  EXPECT_NO_THROW(graphs.add_gradient(batch, batch.labelled_tokens));
}

INSTANTIATE_TEST_SUITE_P(, CapturedStepGraphs, ::testing::ValuesIn(forms()), [](const auto& info) {
  return info.param.name;
});

TEST(StepGraphs, OfATrainerOnAGpuLearnAsWithout) {
  if (!at::hasCUDA()) {
    GTEST_SKIP() << "there is no CUDA device";
  }
  for (const bool dora : {false, true}) {
    const auto with = losses_of_run(at::kCUDA, true, dora), without = losses_of_run(at::kCUDA, false, dora);
    ASSERT_EQ(with.size(), without.size());
    EXPECT_LT(with.back(), with.front());
    for (size_t i = 0; i < with.size(); ++i) {
      EXPECT_NEAR(with[i], without[i], 1e-3 * without[i]) << i;
    }
  }
}

} // namespace
} // namespace rora
